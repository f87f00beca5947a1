"""A pod that loses Redis: briefly, for longer than its calls may take, or with all that Redis knew."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from faults.proxy import Proxy
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate, gates
from tests.sse import PATIENCE, Stream, connect, text_of
from tests.streamable import call, client

from trunkline.api import stream as streams
from trunkline.api.run import ApiProcess
from trunkline.settings import Settings
from trunkline.streams.bounds import Admission, Bounds
from trunkline.streams.calls import Calls, Message
from trunkline.streams.client import Redis
from trunkline.streams.sessions import Owner

CALLS = 25


@pytest.fixture
async def quick() -> AsyncIterator[Gate]:
    """A second gate, for what is answered before the other opens."""
    made = Gate("quick-" + secrets.token_hex(6))
    gates[made.name] = made
    yield made
    gates.pop(made.name).open()


@pytest.fixture
async def way(settings: Settings) -> AsyncIterator[Proxy]:
    """The way of one pod to Redis, which a test may cut; asked for before the pods, so that it outlives them."""
    target = urlsplit(settings.redis_url)
    proxy = Proxy(target.hostname or "", target.port or 6379)
    await proxy.start()
    yield proxy
    await proxy.aclose()


async def pod_on(platform: Platform, way: Proxy, **changes: object) -> str:
    url = urlsplit(platform.settings.redis_url)
    password, at, _ = url.netloc.rpartition("@")
    there = url._replace(netloc=f"{password}{at}127.0.0.1:{way.port}").geturl()
    return await platform.api(redis_url=there, **changes)


async def call_on(stream: Stream, name: int) -> None:
    for number in range(CALLS):
        text = f"{name}.{number}"
        assert text_of(await stream.call("echo", {"text": text})) == text


async def killings(platform: Platform, stream: Stream) -> None:
    """Kill every subscription whenever some more answers have come."""
    for seen in range(5, CALLS, 5):

        async def has_come(seen: int = seen) -> bool:
            await platform.redis.command("PING")
            return int(stream.last_id.partition(".")[2] or 0) >= seen

        await eventually(has_come)
        await platform.redis.command("CLIENT", "KILL", "TYPE", "pubsub")


async def test_subscriptions_killed_under_load_cost_no_answer_and_bring_none_twice(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with (
        asyncio.timeout(PATIENCE * 2),
        connect(api, key=platform.key) as first,
        connect(api, key=platform.key) as second,
        connect(api, key=platform.key) as third,
    ):
        streams = (first, second, third)
        for stream in streams:
            await stream.initialize()
        async with asyncio.TaskGroup() as group:
            for name, stream in enumerate(streams):
                group.create_task(call_on(stream, name))
            group.create_task(killings(platform, first))
        assert {int(stream.last_id.partition(".")[2]) for stream in streams} == {CALLS + 1}


async def test_what_was_answered_while_a_pod_had_no_redis_comes_when_it_is_back(
    way: Proxy, platform: Platform
) -> None:
    api, other = await pod_on(platform, way), await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream, connect(other, key=platform.key) as helper:
        await stream.initialize()
        await helper.initialize()
        way.cut()
        numbers = [await stream.send("ping", base=other) for _ in range(5)]
        assert await helper.request("ping")
        way.heal()
        for number in numbers:
            assert (await stream.answer(number))["result"] == {}
        assert text_of(await stream.call("echo", {"text": "again"})) == "again"


@pytest.mark.parametrize("stateless", [False, True])
async def test_a_post_that_is_accepted_after_redis_was_back_is_answered(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, stateless: bool
) -> None:
    api = await platform.api()
    await platform.worker()
    pod = platform.process(ApiProcess)
    accept = Calls.accept

    async def accept_late(calls: Calls, owner: Owner, message: Message, bounds: Bounds) -> Admission:
        heard, renew = asyncio.Event(), pod._forwarder._renew_soon

        def renew_soon(stream: Any) -> None:
            renew(stream)
            heard.set()

        monkeypatch.setattr(pod._forwarder, "_renew_soon", renew_soon)
        await platform.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await heard.wait()  # the subscription is back
        await platform.redis.command("PING")
        return await accept(calls, owner, message, bounds)

    async with client(api, key=platform.key) as one, asyncio.timeout(PATIENCE):
        await one.initialize()
        monkeypatch.setattr(Calls, "accept", accept_late)
        answer = await (one.modern if stateless else one.ask)(call(7, "echo", text="late"))
        assert text_of(answer["result"]) == "late"


async def expect_lost(stream: Stream, numbers: list[int], reason: str) -> None:
    """Answers that say that nothing is known, then the reason for which the stream ends, then its end."""
    for number in numbers:
        event = await stream.event()
        assert event.id == f"{stream.session}.lost"
        assert event.message["id"] == number
        assert event.message["error"]["code"] == -32603
        assert event.message["error"]["data"] == {"outcome": "unknown"}
    end = await stream.event()
    assert (end.kind, end.data) == ("end", reason)
    with pytest.raises(EOFError):
        await stream.event()


async def expect_no_resume(api: str, key: str, last_event_id: str) -> None:
    with pytest.raises(ConnectionRefusedError) as refused:
        async with connect(api, key=key, last_event_id=last_event_id):
            pass
    assert refused.value.args[0] == 404


async def test_calls_overdue_without_redis_are_answered_by_the_pod_that_holds_the_stream(
    way: Proxy, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_GRACE", 0.1)
    api, other = await pod_on(platform, way, call_timeout=0.2), await platform.api()
    async with connect(api, key=platform.key) as stream, connect(api, key=platform.key) as idle:
        number = await stream.send("ping")
        # Accepted by another pod, whose calls have longer: the first that is overdue brings the end for all.
        second = await stream.send("ping", base=other)
        way.cut()
        await expect_lost(stream, [number, second], "redis lost")
        way.heal()
        await expect_no_resume(other, platform.key, stream.last_id)
        assert idle.last_id.endswith(".0")
        assert (await idle.post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202


async def test_an_overdue_call_that_redis_still_knows_is_left_to_the_sweep(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_GRACE", 0.0)
    api = await platform.api(call_timeout=0.1, call_timeout_max=0.1)
    async with connect(api, key=platform.key) as stream:
        answer = await stream.answer(await stream.send("ping"))
        assert answer["error"]["code"] == -32001
        assert stream.last_id == f"{stream.session}.1"


async def test_a_session_that_redis_has_lost_ends_and_what_was_pending_is_answered(
    way: Proxy, platform: Platform
) -> None:
    api = await pod_on(platform, way)
    async with connect(api, key=platform.key) as stream:
        number = await stream.send("ping")
        tenant = await platform.tenants.get("demo")
        await platform.redis.command("DEL", *platform.redis.keys.stream(tenant.id, stream.session))
        way.cut()
        way.heal()
        await expect_lost(stream, [number], "session ended")
        await expect_no_resume(api, platform.key, stream.last_id)


async def test_a_gap_that_no_outbox_fills_ends_the_session_and_what_was_pending_is_answered(
    way: Proxy, platform: Platform, gate: Gate
) -> None:
    api, other = await pod_on(platform, way), await platform.api()
    await platform.workshop(outbox_max_messages=2)
    async with connect(api, key=platform.key) as stream, connect(other, key=platform.key) as helper:
        await stream.initialize()
        await helper.initialize()
        seen = stream.last_id
        number = await stream.send("tools/call", {"name": "wait", "arguments": {"gate": gate.name}})
        await gate.until(inside=1)
        way.cut()
        for _ in range(6):
            await stream.send("ping", base=other)
        for _ in range(3):  # answered after them
            assert await helper.request("ping")
        way.heal()
        await expect_lost(stream, [number], "messages lost")
        for last in (stream.last_id, seen):
            await expect_no_resume(other, platform.key, last)
        await gate.until(cancelled=1)


@dataclass(frozen=True)
class Moment:
    """What Redis had of a session at some moment, to which it may go back."""

    redis: Redis
    kept: dict[str, bytes]

    @classmethod
    async def of(cls, platform: Platform, session: str) -> Moment:
        tenant = await platform.tenants.get("demo")
        names = platform.redis.keys.stream(tenant.id, session)
        return cls(platform.redis, {name: await platform.redis.command("DUMP", name) for name in names})

    async def come_back(self) -> None:
        for name, value in self.kept.items():
            await self.redis.command("RESTORE", name, 0, value, "REPLACE")

    async def newest_is(self, offset: int) -> bool:
        _, outbox = self.kept
        return int(await self.redis.command("XLEN", outbox)) == offset


@pytest.mark.parametrize("since", [0, 2])
async def test_a_redis_that_went_back_behind_an_answer_ends_the_session_and_brings_it_no_second_time(
    way: Proxy, platform: Platform, gate: Gate, quick: Gate, since: int
) -> None:
    api, other = await pod_on(platform, way), await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        lost = await stream.send("tools/call", {"name": "wait", "arguments": {"gate": gate.name}})
        answered = await stream.send("tools/call", {"name": "wait", "arguments": {"gate": quick.name}})
        for each in (gate, quick):
            await each.until(inside=1)
        moment = await Moment.of(platform, stream.session)
        quick.open()
        assert text_of((await stream.answer(answered))["result"]) == "through"
        way.cut()
        await moment.come_back()
        for _ in range(since):  # their answers take the place of the one that Redis has lost, and the next
            await stream.send("ping", base=other)
        await eventually(lambda: moment.newest_is(1 + since))
        way.heal()
        await expect_lost(stream, [lost], "messages lost")
        await expect_no_resume(other, platform.key, stream.last_id)
        await gate.until(cancelled=1)


async def test_a_pod_forgets_what_was_cancelled(platform: Platform, gate: Gate) -> None:
    holder, other = await platform.api(), await platform.api()
    await platform.workshop()
    async with connect(holder, key=platform.key) as stream:
        await stream.initialize()
        number = await stream.send("tools/call", {"name": "wait", "arguments": {"gate": gate.name}}, base=other)
        await gate.until(inside=1)
        held = platform.process(ApiProcess)._connections.get(stream.session)
        assert held is not None
        assert len(held.pending or ()) == 1
        taken_back = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
        assert (await stream.post(taken_back, base=other)).status_code == 202
        await gate.until(cancelled=1)
        assert await stream.request("ping")
        assert held.pending is None
