"""What a session negotiates and asks for, whichever worker answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mcp.server.lowlevel.server import HandlerEntry
from mcp_types import NotificationParams
from tests.journey import workshop
from tests.journey.conftest import Platform, eventually
from tests.sse import INITIALIZE, PATIENCE, Stream, connect, text_of

from trunkline.toolsets.hosted import lowlevel

# The tools log as servers of the handshake era do, which the SDK has deprecated for 2026-07-28.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

LATEST = "2025-11-25"


async def messages_until_answer(stream: Stream, request_id: int) -> list[dict[str, Any]]:
    """What comes up to the answer, which is the last."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1].get("id") != request_id:
        messages.append((await stream.event()).message)
    return messages


async def test_initialize_negotiates_every_version_of_the_handshake_era(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    versions = {name: name for name in ("2024-11-05", "2025-03-26", "2025-06-18", LATEST)}
    for asked, given in {**versions, "2026-07-28": LATEST, "1999-01-01": LATEST, "x": LATEST}.items():
        async with connect(api, key=platform.key) as stream:
            answer = await stream.initialize(protocolVersion=asked)
            assert answer["result"]["protocolVersion"] == given
            assert answer["result"]["serverInfo"]["name"] == "demo"


async def test_what_a_session_negotiated_holds_on_a_worker_that_never_saw_it(platform: Platform) -> None:
    api = await platform.api()
    first = await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        info = {"name": "the client", "version": "9"}
        await stream.initialize(protocolVersion="2025-03-26", clientInfo=info, capabilities={"sampling": {}})
        before = await client_seen(stream)
        await platform.stop(first)
        await platform.workshop()
        after = await client_seen(stream)
    assert {**before, "worker": 0} == {"version": "2025-03-26", "name": "the client", "sampling": True, "worker": 0}
    assert {**after, "worker": 0} == {**before, "worker": 0}
    assert after["worker"] != before["worker"]


async def client_seen(stream: Stream) -> dict[str, Any]:
    return dict(json.loads(text_of(await stream.call("client"))))


async def test_a_request_before_initialize_is_refused_as_the_sdk_does_and_ping_is_not(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        assert (await stream.request("ping"))["result"] == {}
        for method, params in (("tools/list", None), ("tools/call", {"name": "echo", "arguments": {"text": "x"}})):
            assert (await stream.request(method, params))["error"]["code"] == -32602
        assert (await stream.request("initialize", {}))["error"]["code"] == -32602
        await stream.initialize()
        assert (await stream.request("tools/list"))["result"]["tools"]


async def test_unknown_methods_tools_and_bad_arguments_are_what_the_specification_says(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        assert (await stream.request("nonsense"))["error"]["code"] == -32601
        assert (await stream.request("server/discover", {}))["error"]["code"] == -32601
        unknown = (await stream.request("tools/call", {"name": "nothing", "arguments": {}}))["error"]
        assert unknown == {"code": -32602, "message": "Unknown tool: nothing"}
        for params in ({}, {"name": 7}, {"name": "echo", "arguments": []}):
            assert (await stream.request("tools/call", params))["error"]["code"] == -32602
        for arguments in ({}, {"text": 7}, {"text": None}):
            result = await stream.call("echo", arguments)
            assert result["isError"]
            assert "text" in text_of(result)


async def test_a_tool_that_fails_is_a_tool_error_without_its_secrets(
    platform: Platform, capfd: pytest.CaptureFixture[str]
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        result = await stream.call("fail")
        assert result["isError"]
        assert workshop.SECRET not in text_of(result)
        assert text_of(await stream.call("echo", {"text": "goes on"})) == "goes on"


async def test_a_response_that_answers_nothing_is_taken_and_dropped(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize(capabilities={"roots": {}})
        response = await stream.post({"jsonrpc": "2.0", "id": "nothing-asked", "result": {}})
        assert response.status_code == 202
        assert (await stream.request("ping"))["result"] == {}


async def test_progress_and_log_lines_come_before_the_answer_in_order(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        params = {"name": "steps", "arguments": {"gate": "", "number": 3}, "_meta": {"progressToken": "tok"}}
        *notes, answer = await messages_until_answer(stream, await stream.send("tools/call", params))
        assert text_of(answer["result"]) == "stepped"
        progress = [note["params"] for note in notes if note["method"] == "notifications/progress"]
        assert [each["progress"] for each in progress] == [0, 1, 2]
        assert {(each["progressToken"], each["total"]) for each in progress} == {("tok", 3)}
        lines = [note["params"]["data"] for note in notes if note["method"] == "notifications/message"]
        assert lines == [f"{level} {step}" for step in range(3) for level in ("debug", "info", "warning", "error")]
        assert [note["method"].rpartition("/")[2] for note in notes] == (["progress"] + ["message"] * 4) * 3


async def test_progress_is_reported_only_to_clients_that_ask_for_it(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        params = {"name": "steps", "arguments": {"gate": "", "number": 1}}
        *notes, _ = await messages_until_answer(stream, await stream.send("tools/call", params))
        assert {note["method"] for note in notes} == {"notifications/message"}


async def test_log_lines_below_the_level_that_the_client_set_do_not_come_from_any_worker(platform: Platform) -> None:
    api = await platform.api()
    first = await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        assert (await stream.request("logging/setLevel", {"level": "warning"}))["result"] == {}
        await platform.stop(first)
        await platform.workshop()
        params = {"name": "steps", "arguments": {"gate": "", "number": 1}}
        *notes, _ = await messages_until_answer(stream, await stream.send("tools/call", params))
        assert [note["params"]["level"] for note in notes] == ["warning", "error"]
        assert (await stream.request("logging/setLevel", {"level": "loud"}))["error"]["code"] == -32602
        # initialize again, as some clients do, leaves the level.
        await stream.initialize()
        *notes, _ = await messages_until_answer(stream, await stream.send("tools/call", params))
        assert [note["params"]["level"] for note in notes] == ["warning", "error"]


async def test_a_meta_of_a_wrong_type_is_an_error_at_once_and_holds_no_place_in_the_lane(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for meta in ("x", 7, [], {"progressToken": {}}):
            answer = await stream.request("tools/call", {"name": "echo", "arguments": {"text": "x"}, "_meta": meta})
            assert answer["error"]["code"] == -32602
            await stream.notify("notifications/roots/list_changed", {"_meta": meta})
        await eventually(lambda: nothing_waits(platform))


async def test_a_mistake_of_ours_is_an_answer_too_and_holds_no_place_in_the_lane(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await platform.api()
    await platform.worker()

    async def broken(*_: object) -> None:
        raise RuntimeError(workshop.SECRET)

    async with connect(api, key=platform.key) as stream:
        monkeypatch.setattr("trunkline.worker.executor.Execution.run", broken)
        await stream.notify("notifications/roots/list_changed")
        error = (await stream.request("ping"))["error"]
        assert error["code"] == -32603
        assert workshop.SECRET not in error["message"]
        await eventually(lambda: nothing_waits(platform))


async def test_that_a_client_is_initialized_is_told_to_a_server_that_listens_and_to_no_other(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(_: object, params: NotificationParams) -> None:
        heard.put_nowait("initialized")

    api = await platform.api()
    worker = await platform.workshop()
    server = lowlevel(workshop.mcp)
    async with connect(api, key=platform.key) as deaf, connect(api, key=platform.key) as told:
        await deaf.request("initialize", INITIALIZE)
        claimed = worker._metrics.claim_total.value
        await deaf.notify("notifications/initialized")
        assert await deaf.request("ping")
        assert worker._metrics.claim_total.value == claimed + 1  # the ping

        monkeypatch.setitem(
            server._notification_handlers, "notifications/initialized", HandlerEntry(NotificationParams, hear)
        )
        await told.initialize()
        async with asyncio.timeout(PATIENCE):
            assert await heard.get() == "initialized"


async def nothing_waits(platform: Platform) -> bool:
    return await waiting(platform) == 0


async def waiting(platform: Platform) -> int:
    """Messages of `demo` that are claimed by nobody or not finished."""
    tenant = await platform.tenants.get("demo")
    return int(await platform.redis.command("XLEN", platform.redis.keys.tenant(tenant.id).calls))
