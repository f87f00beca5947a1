"""How a POST that is held ends when its pod stops, its key goes, or Redis does: always with something said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import text_of
from tests.streamable import LATEST, Client, call, client

from trunkline.api.run import ApiProcess

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


async def test_streams_of_a_pod_that_stops_go_on_at_another(platform: Platform, gate: Gate) -> None:
    leaving, staying = await platform.api(), await platform.api()
    await platform.workshop()
    async with client(leaving, key=platform.key) as one, asyncio.TaskGroup() as group:
        await one.initialize()
        async with (
            one.open("GET") as own,
            one.open("POST", call(1, "wait", gate=gate.name)) as answer,
        ):
            seen, of_own = (await answer.event()).id, (await own.event()).id
            stopping = group.create_task(platform.stop(platform.process(ApiProcess)))
            for ended in (answer, own):
                with pytest.raises(EOFError, match=r"^\d+$"):
                    await ended.event()
        async with one.open("GET", base=staying, last_event_id=seen) as rest:
            gate.open()
            (message,) = await rest.rest()
            assert text_of(message["result"]) == "through"
        async with one.open("GET", base=staying, last_event_id=of_own) as own:
            assert own.streams
        await stopping
    assert gate.cancelled == 0


@pytest.mark.parametrize("version", ["2025-06-18", LATEST])
async def test_a_stream_that_was_resumed_goes_on_at_a_third_pod_when_the_second_stops(
    platform: Platform, gate: Gate, version: str
) -> None:
    staying, leaving = await platform.api(), await platform.api()
    await platform.workshop()
    async with client(staying, key=platform.key) as one, asyncio.TaskGroup() as group:
        await one.initialize(version)
        progress = call(1, "steps", {"progressToken": 1}, gate=gate.name, number=1)
        async with one.open("POST", progress) as answer:
            await answer.message()
            seen = answer.last_id
        async with one.open("GET", base=leaving, last_event_id=seen) as resumed:
            await gate.until(inside=1)
            assert (await resumed.message())["method"] == "notifications/message"
            stopping = group.create_task(platform.stop(platform.process(ApiProcess, 1)))
            events = await resumed.events()
            assert not [event for event in events if event.id.endswith("lost")]
        third = await platform.api()
        gate.open()
        async with one.open("GET", base=third, last_event_id=resumed.last_id) as rest:
            assert text_of((await rest.rest())[-1]["result"]) == "stepped"
        await stopping


async def test_an_undecided_post_of_a_pod_that_stops_becomes_a_stream_that_goes_on_at_another(
    platform: Platform, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.api.streamable.ANSWER_WAIT", 60)
    leaving, staying = await platform.api(), await platform.api()
    await platform.workshop()
    async with client(leaving, key=platform.key) as one, asyncio.TaskGroup() as group:
        await one.initialize()
        held = group.create_task(one.send("POST", call(1, "wait", gate=gate.name)))
        await gate.until(inside=1)
        stopping = group.create_task(platform.stop(platform.process(ApiProcess)))
        lines = (await held).text.splitlines()
        assert lines[0].startswith(f"id: {one.session}.")
        assert ": draining" in lines
        gate.open()
        async with one.open("GET", base=staying, last_event_id=lines[0].removeprefix("id: ")) as rest:
            assert text_of((await rest.rest())[-1]["result"]) == "through"
        await stopping


@pytest.mark.parametrize(("accept", "version"), [("application/json", LATEST), ("", "2025-06-18")])
async def test_what_no_other_pod_could_finish_is_finished_by_the_one_that_stops(
    platform: Platform, gate: Gate, accept: str, version: str
) -> None:
    leaving = await platform.api()
    await platform.workshop()
    async with client(leaving, key=platform.key, accept=accept) as one, asyncio.TaskGroup() as group:
        await one.initialize(version)
        held = group.create_task(one.ask(call(1, "wait", gate=gate.name)))
        await gate.until(inside=1)
        stopping = group.create_task(platform.stop(platform.process(ApiProcess)))
        await eventually(lambda: refuses_streams(one))
        gate.open()
        assert text_of((await held)["result"]) == "through"
        await stopping


async def refuses_streams(one: Client) -> bool:
    return (await one.other(accept="").send("GET")).status_code == 503


async def test_what_is_not_finished_in_time_is_answered_with_an_error(platform: Platform, gate: Gate) -> None:
    leaving = await platform.api(drain_timeout=1.0)
    await platform.workshop()
    async with client(leaving, key=platform.key, accept="application/json") as one, asyncio.TaskGroup() as group:
        await one.initialize()
        held = group.create_task(one.ask(call(1, "wait", gate=gate.name)))
        await gate.until(inside=1)
        group.create_task(platform.stop(platform.process(ApiProcess)))
        error = (await held)["error"]
        assert (error["code"], error["data"]) == (-32603, {"outcome": "unknown"})


@pytest.mark.parametrize("what", ["revoked", "suspended"])
async def test_who_may_not_be_here_any_more_is_told_so_on_every_answer_that_is_held(
    platform: Platform, gate: Gate, what: str
) -> None:
    api = await platform.api()
    await platform.workshop()
    key, issued = await platform.keys.issue("demo")
    async with client(api, key=key) as one, asyncio.TaskGroup() as group:
        await one.initialize()
        document = one.other(accept="application/json")
        async with one.open("GET") as own, one.open("POST", call(1, "wait", gate=gate.name)) as answer:
            held = group.create_task(document.send("POST", call(2, "wait", gate=gate.name)))
            await gate.until(inside=2)
            await (platform.keys.revoke(issued.id) if what == "revoked" else platform.tenants.suspend("demo"))
            (last,) = await answer.rest()
            assert (last["id"], last["error"]["code"]) == (1, -32000)
            assert what in last["error"]["message"]
            await own.ended()
        response = await held
        assert (response.status_code, response.json()["id"]) == (401 if what == "revoked" else 403, 2)
    await platform.tenants.resume("demo")


async def test_what_redis_has_lost_is_answered_by_the_pod_that_holds_it(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one, asyncio.TaskGroup() as group:
        await one.initialize()
        document = one.other(accept="application/json")
        async with one.open("POST", call(1, "wait", gate=gate.name)) as answer:
            held = group.create_task(document.ask(call(2, "wait", gate=gate.name)))
            await gate.until(inside=2)
            await forget_all(platform, one)
            await platform.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
            lost: list[dict[str, Any]] = [(await answer.rest())[-1], await held]
        assert [(each["id"], each["error"]["code"]) for each in lost] == [(1, -32603), (2, -32603)]
        assert (await one.send("POST", call(3, "wait", gate=gate.name))).status_code == 404


async def forget_all(platform: Platform, one: Client) -> None:
    """Take all that Redis knows of a session."""
    prefix = platform.redis.keys.stream((await platform.tenants.get("demo")).id, one.session)[0]
    _, found = await platform.redis.command("SCAN", 0, "MATCH", f"{prefix}*", "COUNT", 10_000)
    await platform.redis.command("DEL", *found)


async def test_messages_lost_between_pods_are_filled_from_the_outbox(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        async with one.open("POST", call(1, "steps", {"progressToken": 1}, gate=gate.name, number=3)) as answer:
            await gate.until(inside=1)
            await platform.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
            gate.open()
            events = [event for event in await answer.events() if event.data]
        assert [int(event.id.rpartition(".")[2]) for event in events] == list(range(1, 17))
