"""Streamable HTTP with sessions: any pod takes any request, and each message comes once, on the stream it is for."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import text_of
from tests.streamable import LATEST, Client, call, client, request

from trunkline.api.run import ApiProcess

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

VERSIONS = ["2025-03-26", "2025-06-18", LATEST]
PROGRESS = {"progressToken": "tok"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_opens_at_one_pod_and_is_used_at_others(platform: Platform, version: str) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.worker()
    async with client(first, key=platform.key) as one:
        answer = await one.initialize(version)
        assert answer["result"]["protocolVersion"] == version
        assert len(one.session) == 32
        for base in (second, first):
            assert text_of(await one.call("echo", base, text=base)) == base
            tools = (await one.ask(request(2, "tools/list"), base))["result"]["tools"]
            assert "echo" in {tool["name"] for tool in tools}


async def test_an_answer_that_comes_soon_and_alone_is_json(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        async with one.open("POST", call(1, "echo", text="\u00e4")) as answer:
            assert answer.headers["content-type"] == "application/json"
            assert "mcp-session-id" not in answer.headers
            (message,) = await answer.rest()
            assert text_of(message["result"]) == "\u00e4"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_call_that_reports_progress_is_answered_by_a_stream_of_its_own(
    platform: Platform, version: str
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize(version)
        async with one.open("POST", call("a", "steps", PROGRESS, gate="", number=2)) as answer:
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"
            events = await answer.events()
        if version == LATEST:
            priming = events.pop(0)
            assert (priming.data, priming.id.rpartition(".")[2]) == ("", "0")
            assert 250 <= int(priming.retry) <= 2000
        *notes, last = [event.message for event in events]
        assert [note["method"].rpartition("/")[2] for note in notes] == (["progress"] + ["message"] * 4) * 2
        assert (last["id"], text_of(last["result"])) == ("a", "stepped")
        session, call_id, _ = events[0].id.split(".")
        assert (session, len(call_id)) == (one.session, 32)
        assert [event.id for event in events] == [f"{session}.{call_id}.{n}" for n in range(1, 12)]


async def test_an_answer_that_takes_its_time_comes_on_a_stream(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        async with one.open("POST", call(1, "wait", gate=gate.name)) as answer:
            assert answer.streams
            assert (await answer.event()).data == ""
            gate.open()
            assert text_of((await answer.message())["result"]) == "through"


async def test_who_takes_json_alone_gets_the_answer_alone_however_long_it_takes(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key, accept="application/json") as one:
        await one.initialize()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(one.send("POST", call(1, "steps", PROGRESS, gate=gate.name, number=2)))
            await gate.until(inside=1)
            gate.open()
        assert asked.result().headers["content-type"] == "application/json"
        assert text_of(asked.result().json()["result"]) == "stepped"


async def test_who_takes_events_alone_gets_a_stream_at_once(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key, accept="text/event-stream") as one:
        await one.initialize()
        async with one.open("POST", request(1, "ping")) as answer:
            assert answer.streams
            assert [message["result"] for message in await answer.rest()] == [{}]


async def test_a_stream_that_broke_goes_on_at_another_pod_with_its_own_messages_alone(
    platform: Platform, gate: Gate
) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.workshop()
    async with client(first, key=platform.key) as one, client(second, key=platform.key) as other:
        await one.initialize()
        async with one.open("POST", call(1, "steps", PROGRESS, gate=gate.name, number=1)) as answer:
            await answer.event()
            seen = (await answer.event()).id
        assert text_of(await one.call("echo", text="on another stream")) == "on another stream"
        other.session, other.version = one.session, one.version
        async with other.open("GET", last_event_id=seen) as rest:
            assert rest.streams
            assert (await rest.event()).id == seen
            gate.open()
            events = await rest.events()
        *lines, last = [event.message for event in events]
        assert [line["params"]["level"] for line in lines] == ["debug", "info", "warning", "error"]
        assert text_of(last["result"]) == "stepped"
        assert [int(event.id.rpartition(".")[2]) for event in events] == [2, 3, 4, 5, 6]


async def test_a_stream_that_was_answered_while_nobody_held_it_is_read_to_its_end(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        async with one.open("POST", call(1, "wait", gate=gate.name)) as answer:
            seen = (await answer.event()).id
        gate.open()
        await gate.until(inside=0)
        for _ in range(2):
            async with one.open("GET", last_event_id=seen) as rest:
                (message,) = await rest.rest()
                assert text_of(message["result"]) == "through"
        async with one.open("GET", last_event_id=f"{seen[:-1]}1") as rest:
            assert await rest.rest() == [], "what was seen to the end has nothing more, and ends"


async def test_no_message_comes_on_two_streams(platform: Platform) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.workshop()
    async with client(first, key=platform.key) as one:
        await one.initialize()
        async with one.open("GET", base=second) as own:
            assert (await own.event()).data == ""
            for number in range(3):
                messages = await one.post(call(number, "steps", PROGRESS, gate="", number=1))
                assert len(messages) == 6
            one.accept = "text/event-stream"
            async with one.open("GET") as again:
                assert (await again.event()).id == f"{one.session}.0", "nothing went to the session's own stream"
                assert "replaced" in await own.ended()


async def test_a_second_stream_of_a_session_replaces_the_first(platform: Platform) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.worker()
    async with client(first, key=platform.key) as one:
        await one.initialize()
        async with one.open("GET") as before, one.open("GET", base=second) as here:
            assert "replaced" in await before.ended()
            async with one.open("GET", base=second) as after:
                assert "replaced" in await here.ended()
                assert after.status == 200


async def test_a_client_that_disconnects_has_taken_nothing_back(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        async with one.open("POST", call(1, "wait", gate=gate.name)) as answer:
            await answer.event()
        assert text_of(await one.call("echo", text="on")) == "on"
        gate.open()
        await gate.until(inside=0)
        assert gate.cancelled == 0


async def test_a_call_that_is_taken_back_ends_its_stream_with_an_error_and_stops(
    platform: Platform, gate: Gate
) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.workshop()
    async with client(first, key=platform.key) as one:
        await one.initialize()
        async with one.open("POST", call(41, "wait", gate=gate.name)) as answer:
            await gate.until(inside=1)
            notification = {"method": "notifications/cancelled", "params": {"requestId": 41}}
            await one.tell({"jsonrpc": "2.0", **notification}, second)
            (message,) = await answer.rest()
            assert (message["id"], message["error"]["code"]) == (41, -32800)
        await gate.until(cancelled=1)


async def test_deleting_a_session_ends_its_streams_and_what_is_held_for_it(platform: Platform, gate: Gate) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.workshop()
    async with client(first, key=platform.key) as one:
        await one.initialize()
        document = one.other(accept="application/json")
        async with (
            one.open("GET") as own,
            one.open("POST", call(1, "wait", gate=gate.name)) as answer,
            asyncio.TaskGroup() as group,
        ):
            held = group.create_task(document.send("POST", call(2, "wait", gate=gate.name)))
            await gate.until(inside=2)
            assert (await one.send("DELETE", base=second)).status_code == 204
            (message,) = await answer.rest()
            assert (message["id"], message["error"]["code"]) == (1, -32000)
            assert ": session ended" in await own.ended()
        assert held.result().status_code == 404
        await gate.until(cancelled=2)
        for method, message in (("POST", request(3, "ping")), ("GET", None), ("DELETE", None)):
            for base in (first, second):
                assert (await one.send(method, message, base)).status_code == 404


async def test_an_initialize_that_is_refused_opens_nothing(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        response = await one.send("POST", request(1, "initialize", {}))
        assert response.json()["error"]["code"] == -32602
        assert "mcp-session-id" not in response.headers
        tenant = await platform.tenants.get("demo")
        sessions = platform.redis.keys.tenant(tenant.id).sessions

        async def closed() -> bool:
            return await platform.redis.command("ZCARD", sessions) == 0

        await eventually(closed)
        streams = platform.redis.keys.stream(tenant.id, "*")[0]

        async def forgotten() -> bool:
            _, found = await platform.redis.command("SCAN", 0, "MATCH", streams, "COUNT", 10_000)
            return not found

        await eventually(forgotten)


async def test_initialize_again_in_a_session_is_one_of_its_requests(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        session = one.session
        info = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        async with one.open("POST", request(1, "initialize", info)) as answer:
            assert "result" in (await answer.rest())[0]
            assert "mcp-session-id" not in answer.headers
        assert one.session == session
        assert (await one.ask(request(2, "ping")))["result"] == {}


async def test_nothing_is_kept_of_what_was_answered_as_a_document(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        for _ in range(3):
            await one.call("echo", text="x")
        tenant = await platform.tenants.get("demo")
        prefix = platform.redis.keys.stream(tenant.id, one.session)[0]

        async def forgotten() -> bool:
            _, found = await platform.redis.command("SCAN", 0, "MATCH", f"{prefix}.*", "COUNT", 10_000)
            return not found

        await eventually(forgotten)


async def test_a_stream_that_was_read_to_its_end_is_kept_for_minutes_alone(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    tenant = await platform.tenants.get("demo")
    async with client(api, key=platform.key) as one:
        await one.initialize()
        read = await drained(one, call(1, "steps", PROGRESS, gate="", number=1))
        async with one.open("POST", call(2, "wait", gate=gate.name)) as answer:
            resumed = (await answer.event()).id.rpartition(".")[0]
        async with one.open("GET", last_event_id=f"{resumed}.0") as rest:
            gate.open()
            await rest.rest()
        for name in (read, resumed):
            record = platform.redis.keys.stream(tenant.id, name)[0]

            async def soon(record: str = record) -> bool:
                return 0 < int(await platform.redis.command("PTTL", record)) <= 120_000

            await eventually(soon)


async def drained(one: Client, message: dict[str, object]) -> str:
    """Read a stream to its end; its name."""
    async with one.open("POST", message) as answer:
        await answer.events()
        return answer.last_id.rpartition(".")[0]


async def test_json_answers_and_streams_alternate_on_one_connection(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        for number in range(4):
            assert len(await one.post(call(number, "steps", PROGRESS, gate="", number=1))) == 6
            assert text_of(await one.call("whole", number=number)) == str(number)
        assert len(one.http._transport._pool.connections) == 1  # type: ignore[attr-defined]


async def test_what_a_session_negotiated_holds_for_each_of_its_posts(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize("2025-06-18", capabilities={"sampling": {}})
        seen = json.loads(text_of(await one.call("client")))
        assert (seen["version"], seen["name"], seen["sampling"]) == ("2025-06-18", "test", True)


async def test_many_posts_of_one_session_at_once_each_get_their_own_answer(platform: Platform) -> None:
    apis = [await platform.api(), await platform.api()]
    await platform.worker()
    async with client(apis[0], key=platform.key) as one:
        await one.initialize()

        async def ask(number: int) -> None:
            answer = await one.ask(call(number % 4, "echo", text=str(number)), apis[number % 2])
            assert text_of(answer["result"]) == str(number)

        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(ask(number))
    assert not list(platform.process(ApiProcess)._connections)


async def test_a_pod_counts_streams_and_not_posts_that_it_holds(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key, accept="application/json") as one, asyncio.TaskGroup() as group:
        await one.initialize()
        group.create_task(one.send("POST", call(1, "wait", gate=gate.name)))
        await gate.until(inside=1)
        assert await open_streams(one) == 0
        one.accept = ""
        async with one.open("GET"):
            assert await open_streams(one) == 1
        gate.open()


async def open_streams(one: Client) -> int:
    return int((await one.http.get(f"{one.base}/health")).json()["active_connections"])
