"""Servers that know nothing of Trunkline, hosted for tenants that know nothing of each other."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.journey.conftest import Platform, eventually
from tests.sse import Stream, connect, text_of

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

SERVERS = Path(__file__).parents[1] / "servers"
ODYSSEY = "9780140449136"
LIBRARY = "library:mcp"
ARCHIVE = "archive:make_server"


@pytest.fixture(autouse=True)
def _where_the_servers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of example servers as working directory, none of them imported yet."""
    monkeypatch.chdir(SERVERS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("library", "archive"):
        monkeypatch.delitem(sys.modules, name, raising=False)


async def tools_of(stream: Stream) -> list[str]:
    return [tool["name"] for tool in (await stream.request("tools/list"))["result"]["tools"]]


async def result_of(stream: Stream, method: str, **params: Any) -> dict[str, Any]:
    answer = await stream.request(method, params)
    assert "result" in answer, answer
    return dict(answer["result"])


@pytest.mark.parametrize("switched_on", [["Library"], ["Library", "town-archive"]], ids=["alone", "beside another"])
async def test_everything_a_server_offers_reaches_its_clients(platform: Platform, switched_on: list[str]) -> None:
    await platform.tenants.disable("demo", "demo")
    for name in switched_on:
        await platform.tenants.enable("demo", name)
    api = await platform.api()
    await platform.worker(LIBRARY, ARCHIVE)
    async with connect(api, key=platform.key) as stream:
        offered = (await stream.initialize())["result"]
        assert {"tools", "resources", "prompts", "completions"} <= offered["capabilities"].keys()
        assert "Search before you lend" in offered["instructions"]

        found = await stream.call("search", {"query": "odyssey"})
        assert [book["title"] for book in found["structuredContent"]["result"]] == ["The Odyssey"]
        (image,) = (await stream.call("cover", {"isbn": ODYSSEY}))["content"]
        assert image["mimeType"] == "image/png"
        assert base64.b64decode(image["data"]).startswith(b"\x89PNG")

        resources = (await result_of(stream, "resources/list"))["resources"]
        assert {"library://hours", "library://logo"} <= {each["uri"] for each in resources}
        (template,) = (await result_of(stream, "resources/templates/list"))["resourceTemplates"]
        assert template["uriTemplate"] == "library://books/{isbn}"
        (hours,) = (await result_of(stream, "resources/read", uri="library://hours"))["contents"]
        assert hours["text"] == "Monday to Friday, 9 to 18"
        (logo,) = (await result_of(stream, "resources/read", uri="library://logo"))["contents"]
        assert base64.b64decode(logo["blob"]).startswith(b"\x89PNG")
        (book,) = (await result_of(stream, "resources/read", uri=f"library://books/{ODYSSEY}"))["contents"]
        assert "Homer" in book["text"]
        unknown = await stream.request("resources/read", {"uri": "library://nowhere"})
        assert unknown["error"]["code"] in {-32602, -32002}

        prompts = {each["name"] for each in (await result_of(stream, "prompts/list"))["prompts"]}
        assert {"recommend", "summarize"} <= prompts
        prompt = await result_of(stream, "prompts/get", name="recommend", arguments={"reader": "Ann"})
        assert prompt["messages"][0]["content"]["text"] == "Recommend a novel to Ann."
        completed = await result_of(
            stream,
            "completion/complete",
            ref={"type": "ref/prompt", "name": "recommend"},
            argument={"name": "genre", "value": "n"},
        )
        assert completed["completion"]["values"] == ["novel"]


async def test_a_lifespan_runs_once_per_worker_and_its_state_lasts_over_sessions(platform: Platform) -> None:
    await platform.tenants.enable("demo", "Library")
    api = await platform.api()
    await platform.worker(LIBRARY)
    openings = set()
    for _ in range(3):
        async with connect(api, key=platform.key) as stream:
            await stream.initialize()
            openings.add(text_of(await stream.call("opening")))
            lent = await stream.call("lend", {"isbn": ODYSSEY, "reader": "Ann"})
    assert openings == {"1"}
    assert "is lent to Ann" in text_of(lent)


async def test_a_tool_learns_the_caller_the_sdks_way_and_ours_even_in_a_thread(platform: Platform) -> None:
    await platform.tenants.enable("demo", "Library")
    token, record = await platform.keys.issue("demo", scopes=["mcp:call"])
    tenant = await platform.tenants.get("demo")
    api = await platform.api()
    await platform.worker(LIBRARY)
    async with connect(api, key=token) as stream:
        await stream.initialize()
        card = (await stream.call("reader_card"))["structuredContent"]
        assert (card["reader"], card["scopes"]) == (record.id, ["mcp:call"])
        assert "worker" in card["thread"]
        who = (await stream.call("whoami"))["structuredContent"]
        assert who == {"tenant": "demo", "tenant_id": tenant.id, "key_id": record.id, "scopes": ["mcp:call"]}


async def test_a_toolset_is_switched_on_and_off_under_an_open_session(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker(LIBRARY)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        assert "lend" not in await tools_of(stream)
        await platform.tenants.enable("demo", "Library")

        async def lends() -> bool:
            return "lend" in await tools_of(stream)

        await eventually(lends)
        assert not (await stream.call("lend", {"isbn": ODYSSEY, "reader": "Ann"})).get("isError")
        await platform.tenants.disable("demo", "Library")

        async def lends_no_more() -> bool:
            return not await lends()

        await eventually(lends_no_more)
        answer = await stream.request("tools/call", {"name": "lend", "arguments": {}})
        assert answer["error"] == {"code": -32602, "message": "Unknown tool: lend"}
        assert text_of(await stream.call("echo", {"text": "stays"})) == "stays"


async def test_of_two_tools_with_one_name_the_later_is_prefixed_for_good(platform: Platform) -> None:
    await platform.tenants.enable("demo", "Library")
    await platform.tenants.enable("demo", "town-archive")
    api = await platform.api()
    await platform.worker(LIBRARY, ARCHIVE)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        names = await tools_of(stream)
        assert len(names) == len(set(names))
        assert all(len(name) <= 64 and name.replace("-", "").replace("_", "").isalnum() for name in names)
        assert {"search", "town-archive_search"} <= set(names)
        assert "Deed of the mill" in text_of(await stream.call("town-archive_search", {"query": "mill"}))
        await platform.tenants.disable("demo", "Library")

        async def without_library() -> bool:
            return "search" not in await tools_of(stream)

        await eventually(without_library)
        assert "town-archive_search" in await tools_of(stream)


async def test_a_keys_patterns_bound_what_it_lists_and_calls(platform: Platform) -> None:
    await platform.tenants.enable("demo", "Library")
    token, _ = await platform.keys.issue("demo", tools=["take_*", "echo"])
    api = await platform.api()
    await platform.worker(LIBRARY)
    async with connect(api, key=token) as stream:
        await stream.initialize()
        assert sorted(await tools_of(stream)) == ["echo", "take_stock"]
        assert text_of(await stream.call("echo", {"text": "may"})) == "may"
        refused = await stream.request("tools/call", {"name": "lend", "arguments": {"isbn": ODYSSEY, "reader": "x"}})
        unknown = await stream.request("tools/call", {"name": "nothing", "arguments": {}})
        assert refused["error"] == {"code": -32602, "message": "Unknown tool: lend"}
        assert unknown["error"] == {"code": -32602, "message": "Unknown tool: nothing"}


async def test_two_tenants_do_not_see_each_others_tools(platform: Platform) -> None:
    await platform.tenants.create("other")
    await platform.tenants.enable("other", "Library")
    others_key, _ = await platform.keys.issue("other")
    api = await platform.api()
    await platform.worker(LIBRARY)
    async with connect(api, key=platform.key) as mine, connect(api, "/t/other/sse", key=others_key) as theirs:
        await mine.initialize()
        await theirs.initialize()
        assert "lend" not in await tools_of(mine)
        assert "echo" not in await tools_of(theirs)
        for stream, foreign in ((mine, "lend"), (theirs, "echo")):
            answer = await stream.request("tools/call", {"name": foreign, "arguments": {}})
            assert answer["error"]["message"] == f"Unknown tool: {foreign}"
        assert (await mine.request("resources/read", {"uri": "library://hours"}))["error"]


async def test_a_tenant_without_any_toolset_has_an_empty_list_and_no_error(platform: Platform) -> None:
    await platform.tenants.disable("demo", "demo")
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        assert await tools_of(stream) == []
        answer = await stream.request("tools/call", {"name": "echo", "arguments": {}})
        assert answer["error"]["message"] == "Unknown tool: echo"
