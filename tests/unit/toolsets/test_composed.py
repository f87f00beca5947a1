from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
from mcp.server import _otel
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ListToolsResult, PaginatedRequestParams, Tool
from tests.unit.toolsets.client import Client, Switch

from trunkline import __version__
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.hosted import Toolset, toolset

LIBRARY = (Switch("Library"), Switch("town-archive"))
ARCHIVE = tuple(reversed(LIBRARY))


@pytest.fixture
def archive_first(catalog: Catalog) -> Client:
    return Client(catalog.server_for(ARCHIVE))


def names_of(toolset_name: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{toolset_name}_")]


async def test_initialize_tells_what_all_members_serve(composed: Client) -> None:
    told = await composed.initialize()
    assert told["serverInfo"] == {"name": "trunkline", "version": __version__}
    assert set(told["capabilities"]) >= {"tools", "resources", "prompts", "completions", "logging"}
    assert told["capabilities"]["resources"]["subscribe"] is True
    assert told["instructions"] == (
        "Town library: Search before you lend; a book can be lent to one reader only.\n\n"
        "town-archive: Records are read by their URI."
    )


async def test_the_toolset_switched_on_later_is_renamed(composed: Client, archive_first: Client) -> None:
    assert names_of("town-archive", await composed.tools()) == ["town-archive_search"]
    assert names_of("Library", await archive_first.tools()) == ["Library_search"]


async def test_a_renamed_tool_reaches_its_own_server(composed: Client, archive_first: Client) -> None:
    assert await composed.text("town-archive_search", query="mill") == "Deed of the mill"
    assert await archive_first.text("search", query="mill") == "Deed of the mill"
    assert "Homer" in await archive_first.text("Library_search", query="odyssey")


async def test_long_and_unusual_names_are_fit_for_clients_and_callable(composed: Client) -> None:
    tools = await composed.tools()
    assert all(len(name) <= 64 for name in tools)
    (long,) = [name for name in tools if name.startswith("list_every_deed")]
    assert await composed.text(long) == "Deed of the mill"
    (dotted,) = [name for name in tools if name.startswith("records_count_")]
    assert await composed.text(dotted) == "3"


async def test_a_listing_is_the_same_each_time_and_comes_on_one_page(composed: Client) -> None:
    first = await composed.request("tools/list")
    assert first == await composed.request("tools/list")
    assert "nextCursor" not in first
    assert len({tool["name"] for tool in first["tools"]}) == len(first["tools"])


async def test_a_cursor_that_was_never_given_is_refused(composed: Client) -> None:
    with pytest.raises(MCPError) as refusal:
        await composed.request("tools/list", {"cursor": "1"})
    assert refusal.value.error.code == -32602


async def test_an_unknown_tool_is_refused_as_the_specification_says(composed: Client) -> None:
    with pytest.raises(MCPError) as refusal:
        await composed.call("fly")
    assert (refusal.value.error.code, refusal.value.error.message) == (-32602, "Unknown tool: fly")


async def test_a_renamed_prompt_is_rendered_and_completed_by_its_own_server(composed: Client) -> None:
    listed = [prompt["name"] for prompt in (await composed.request("prompts/list"))["prompts"]]
    assert listed == ["recommend", "summarize", "town-archive_summarize"]
    own = await composed.request("prompts/get", {"name": "summarize", "arguments": {"text": "x"}})
    assert own["messages"][0]["content"]["text"] == "Summarize for a library card: x"
    other = await composed.request("prompts/get", {"name": "town-archive_summarize", "arguments": {"text": "x"}})
    assert other["messages"][0]["content"]["text"] == "Summarize for the archive: x"
    ref = {"type": "ref/prompt", "name": "town-archive_summarize"}
    completed = await composed.request("completion/complete", {"ref": ref, "argument": {"name": "text", "value": ""}})
    assert completed["completion"]["values"] == ["deed", "map"]


async def test_an_unknown_prompt_is_refused(composed: Client) -> None:
    with pytest.raises(MCPError, match="Unknown prompt: sing"):
        await composed.request("prompts/get", {"name": "sing"})


async def test_of_two_resources_with_one_uri_the_earlier_toolset_wins(
    composed: Client, archive_first: Client
) -> None:
    for client, text in ((composed, "Monday to Friday, 9 to 18"), (archive_first, "The archive's own copy")):
        listed = [resource["uri"] for resource in (await client.request("resources/list"))["resources"]]
        assert listed.count("library://hours") == 1
        assert set(listed) >= {"library://logo", "archive://deeds/1"}
        (content,) = (await client.request("resources/read", {"uri": "library://hours"}))["contents"]
        assert content["text"].startswith(text)


async def test_a_resource_that_came_up_after_the_start_is_found(composed: Client, catalog: Catalog) -> None:
    catalog._members["town-archive"].state["records"]["archive://deeds/9"] = "Deed of the bridge"
    (content,) = (await composed.request("resources/read", {"uri": "archive://deeds/9"}))["contents"]
    assert content["text"] == "Deed of the bridge"


async def test_subscriptions_reach_the_server_that_owns_the_resource(composed: Client, catalog: Catalog) -> None:
    watched = catalog._members["town-archive"].state["watched"]
    await composed.request("resources/subscribe", {"uri": "archive://deeds/1"})
    assert watched == {"archive://deeds/1"}
    await composed.request("resources/unsubscribe", {"uri": "archive://deeds/1"})
    assert watched == set()


async def test_a_resource_whose_server_has_no_subscriptions_cannot_be_watched(composed: Client) -> None:
    with pytest.raises(MCPError) as refusal:
        await composed.request("resources/subscribe", {"uri": "library://logo"})
    assert refusal.value.error.code == -32601


async def test_a_method_of_its_own_reaches_the_server_that_has_it(composed: Client) -> None:
    assert await composed.request("archive/stamp", {"uri": "a"}) == {"stamped": "a", "records": 3}


async def test_a_notification_reaches_the_servers_that_listen(composed: Client, catalog: Catalog) -> None:
    await composed.notify("notifications/roots/list_changed")
    assert catalog._members["town-archive"].state["roots_changed"] == 1


async def test_the_log_level_can_be_set(composed: Client) -> None:
    assert await composed.request("logging/setLevel", {"level": "warning"}) == {}


async def test_completion_for_a_reference_that_nobody_knows_is_left_to_the_first_that_completes(
    composed: Client,
) -> None:
    ref = {"type": "ref/resource", "uri": "nowhere://{x}"}
    result = await composed.request("completion/complete", {"ref": ref, "argument": {"name": "x", "value": ""}})
    assert result["completion"]["values"] == []


async def test_clients_without_a_session_are_served_too(composed: Client) -> None:
    discovered = await composed.stateless("server/discover", {})
    assert discovered["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "trunkline"
    called = {"name": "town-archive_search", "arguments": {"query": "mill"}}
    result = await composed.stateless("tools/call", called)
    assert result["content"][0]["text"] == "Deed of the mill"
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "trunkline"
    assert (await composed.stateless("tools/list", {}))["cacheScope"] == "private"


def cached(name: str, **seconds: int) -> Toolset:
    hints: dict[Any, CacheHint] = {
        method.replace("_", "/"): CacheHint(ttl_ms=1_000 * least, scope="public") for method, least in seconds.items()
    }
    return toolset(MCPServer(name, cache_hints=hints), name)


async def test_clients_may_keep_a_listing_as_long_as_the_member_that_allows_least() -> None:
    toolsets = [
        cached("slow", tools_list=60, prompts_list=60, server_discover=30),
        cached("quick", tools_list=5, server_discover=60),
    ]
    async with Catalog(toolsets) as catalog:
        client = Client(catalog.server_for((Switch("slow"), Switch("quick"))))
        ttls = [
            (await client.stateless(method, {}))["ttlMs"]
            for method in ("tools/list", "prompts/list", "server/discover")
        ]
    assert ttls == [5_000, 0, 30_000]


async def stamped(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware as an author writes it: rewrites the parameters, looks at the wire form of the result."""
    if ctx.method != "tools/call":
        return await call_next(ctx)
    assert ctx.lifespan_context == {}
    arguments = {"text": (ctx.params or {})["arguments"]["text"].upper()}
    result = await call_next(replace(ctx, params={**(ctx.params or {}), "arguments": arguments}))
    assert isinstance(result, dict)
    assert result["isError"] is False
    return {**result, "_meta": {"stamp": "seen"}}


def plain(name: str, *middleware: Any) -> Toolset:
    server: MCPServer[Any] = MCPServer(name, middleware=middleware)

    @server.tool()
    async def say(text: str) -> str:
        return text

    return toolset(server, name)


def mcpserver_of(found: Toolset) -> MCPServer[Any]:
    entry = found.server.get_request_handler("tools/list")
    assert entry is not None
    return entry.handler.__self__  # type: ignore[attr-defined]


async def test_a_members_own_middleware_runs_inside(library: Toolset) -> None:
    async with Catalog([library, plain("loud", stamped)]) as catalog:
        client = Client(catalog.server_for((Switch("Library"), Switch("loud"))))
        result = await client.call("say", text="hello")
    assert result["content"][0]["text"] == "HELLO"
    assert result["_meta"] == {"stamp": "seen"}


async def test_blocking_tools_do_not_wait_for_each_other(library: Toolset) -> None:
    together = Barrier(3, timeout=10)
    server: MCPServer[Any] = MCPServer("old")

    @server.tool()
    def meet() -> str:
        together.wait()
        return "met"

    async with Catalog([library, toolset(server, "old")]) as catalog:
        client = Client(catalog.server_for((Switch("Library"), Switch("old"))))
        assert await asyncio.gather(*(client.text("meet") for _ in range(3))) == ["met"] * 3


async def test_a_tool_added_after_the_start_is_listed_and_called(library: Toolset) -> None:
    growing = plain("growing")
    async with Catalog([library, growing]) as catalog:
        switches = (Switch("Library"), Switch("growing"))
        client = Client(catalog.server_for(switches))

        async def later() -> str:
            return "grown"

        mcpserver_of(growing).add_tool(later)
        assert await client.text("later") == "grown"
        assert "later" in await client.tools()


async def list_for_ever(ctx: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[Tool(name="again", input_schema={"type": "object"})], next_cursor="more")


async def fail_to_list(ctx: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
    raise RuntimeError("upstream is away")


async def test_a_listing_that_never_ends_is_cut(library: Toolset) -> None:
    endless = toolset(Server("endless", on_list_tools=list_for_ever), "endless")
    async with Catalog([library, endless]) as catalog:
        client = Client(catalog.server_for((Switch("Library"), Switch("endless"))))
        assert (await client.tools()).count("again") == 1


@pytest.fixture
async def half_broken(library: Toolset, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Catalog]:
    broken = toolset(Server("broken", on_list_tools=fail_to_list), "broken")
    with caplog.at_level(logging.WARNING):
        async with Catalog([library, broken, plain("one")]) as catalog:
            yield catalog


async def test_a_member_whose_listing_fails_does_not_hide_the_others(
    half_broken: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    (at_start,) = caplog.get_records("setup")
    assert at_start.getMessage() == "toolset broken does not answer tools/list at start"
    client = Client(half_broken.server_for((Switch("broken"), Switch("one"))))
    assert await client.tools() == ["say"]
    assert "toolset broken failed on tools/list" in caplog.text


async def test_the_sdk_traces_no_call_by_itself(library: Toolset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(_otel, "otel_span", lambda *, name, **_: opened.append(name))
    async with Catalog([library, plain("one")]) as catalog:
        client = Client(catalog.server_for((Switch("Library"), Switch("one"))))
        await client.call("search", query="odyssey")
    assert opened == []
