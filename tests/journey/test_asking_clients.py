"""A tool asks its client, and each end that this can have: an answer, none in time, a call or a worker that ends."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from tests.journey import workshop
from tests.journey.conftest import Platform, eventually
from tests.sse import Stream, connect, text_of

from trunkline.streams.calls import Calls
from trunkline.streams.connection import Connection, ConnectionLost
from trunkline.streams.sessions import Owner

# Roots are deprecated as of 2026-07-28; clients of before have them.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

CAPABILITIES = {"capabilities": {"elicitation": {"form": {}}, "roots": {}}}
RED = {"action": "accept", "content": {"name": "red"}}


async def begin(stream: Stream, tool: str) -> tuple[int, dict[str, Any]]:
    """Call a tool; the id of the call, and what it asks."""
    await stream.initialize(**CAPABILITIES)
    call = await stream.send("tools/call", {"name": tool, "arguments": {}})
    return call, (await stream.event()).message


async def respond(platform: Platform, stream: Stream, question: dict[str, Any], result: dict[str, Any]) -> bool:
    """Answer as any pod does that receives the client's response; whether someone waits for it."""
    tenant = (await platform.tenants.get("demo")).id
    record = platform.redis.keys.stream(tenant, stream.session)[0]
    transport, _, principal = (await platform.redis.command("HGET", record, "principal")).decode().partition(" ")
    response = orjson.dumps({"jsonrpc": "2.0", "id": question["id"], "result": result})
    owner = Owner(tenant, principal, transport)
    return await Calls(platform.redis).reply(owner, stream.session, question["id"], response)


@pytest.mark.parametrize("tool", ["choose", "choose_in_a_thread"])
async def test_a_tool_on_any_worker_gets_the_answer_of_its_user(platform: Platform, tool: str) -> None:
    api = await platform.api()
    await platform.workshop()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        call, question = await begin(stream, tool)
        assert question["method"] == "elicitation/create"
        assert question["params"]["message"] == "Which colour?"
        assert await respond(platform, stream, question, RED)
        assert not await respond(platform, stream, question, RED), "the first counts"
        assert text_of((await stream.answer(call))["result"]) == "red"


async def test_standalone_requests_come_by_the_calls_stream(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        call, question = await begin(stream, "ask")
        assert (question["method"], question.get("params")) == ("roots/list", None)
        await respond(platform, stream, question, {"roots": [{"uri": "file:///home"}]})
        assert text_of((await stream.answer(call))["result"]) == "file:///home"


async def test_a_tool_that_waits_for_its_user_keeps_no_other_tenant_from_working(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop(concurrency=1)
    await platform.tenants.create("other")
    await platform.tenants.enable("other", "demo")
    key, _ = await platform.keys.issue("other")
    async with connect(api, key=platform.key) as stream, connect(api, "/t/other/sse", key=key) as other:
        call, question = await begin(stream, "choose")
        await other.initialize()
        assert text_of(await other.call("echo", {"text": "meanwhile"})) == "meanwhile"
        await respond(platform, stream, question, RED)
        assert text_of((await stream.answer(call))["result"]) == "red"


async def test_an_answer_that_came_while_the_worker_could_not_hear_is_found(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        call, question = await begin(stream, "choose")
        await platform.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await respond(platform, stream, question, RED)
        assert text_of((await stream.answer(call))["result"]) == "red"


async def test_a_client_that_does_not_answer_in_time_is_told_and_the_tool_goes_on(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop(client_timeout=0.3)
    async with connect(api, key=platform.key) as stream:
        call, question = await begin(stream, "choose_briefly")
        told = (await stream.event()).message
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", question["id"])
        assert text_of((await stream.answer(call))["result"]) == "blue, for -32001"
        assert not await respond(platform, stream, question, RED)


async def test_a_call_that_asks_has_the_time_of_its_client_and_ends_with_its_question(platform: Platform) -> None:
    api = await platform.api(call_timeout=2, call_timeout_max=3)  # also what `initialize` has
    await platform.workshop(call_timeout=0.2, call_timeout_max=3)
    async with connect(api, key=platform.key) as stream:
        call, question = await begin(stream, "choose")
        told = (await stream.event()).message
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", question["id"])
        assert (await stream.answer(call))["error"]["code"] == -32001


@pytest.mark.parametrize("tool", ["choose", "choose_in_a_thread"])
async def test_a_call_that_is_taken_back_while_it_asks_ends_and_its_slot_is_free(
    platform: Platform, tool: str
) -> None:
    api = await platform.api()
    worker = await platform.workshop(concurrency=1)
    async with connect(api, key=platform.key) as stream:
        call, question = await begin(stream, tool)
        await stream.notify("notifications/cancelled", {"requestId": call})

        async def ended() -> bool:
            await platform.redis.command("PING")
            return not worker._consumer._running

        await eventually(ended)
        assert not await respond(platform, stream, question, RED)
        assert text_of(await stream.call("echo", {"text": "next"})) == "next"


async def test_a_worker_that_stops_while_a_tool_asks_answers_for_it(platform: Platform) -> None:
    api = await platform.api()
    worker = await platform.workshop(drain_timeout=0.2)
    async with connect(api, key=platform.key) as stream:
        call, question = await begin(stream, "choose")
        await platform.stop(worker)
        told = (await stream.event()).message
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", question["id"])
        assert (await stream.answer(call))["error"]["data"] == {"outcome": "unknown"}


@pytest.mark.parametrize("tool", ["choose", "choose_again"])
async def test_a_worker_stops_while_a_tool_asks_though_redis_is_away(
    platform: Platform, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> Connection:
        raise ConnectionLost("away")

    api = await platform.api()
    worker = await platform.workshop(drain_timeout=0.2)
    async with connect(api, key=platform.key) as stream:
        await begin(stream, tool)
        redis = worker._consumer._redis
        monkeypatch.setattr(redis, "_connected", away)
        assert redis._connection is not None
        redis._connection.close()
        await platform.stop(worker)


async def test_a_tool_that_may_be_repeated_asks_again_on_another_worker(platform: Platform) -> None:
    api = await platform.api()
    worker = await platform.workshop(drain_timeout=0.2)
    async with connect(api, key=platform.key) as stream:
        call, first = await begin(stream, "choose_again")
        await platform.worker(workshop.PATH)
        await platform.stop(worker)
        told = (await stream.event()).message
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", first["id"])
        second = (await stream.event()).message
        assert second["id"] != first["id"]
        assert not await respond(platform, stream, first, {"action": "decline"})
        assert await respond(platform, stream, second, RED)
        assert text_of((await stream.answer(call))["result"]) == "red"
