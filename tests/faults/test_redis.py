"""What Redis can suffer, one kind a test: clear refusals or waiting meanwhile, and no restart of any pod after it.

That it dies and comes back is tried in `tests/acceptance/test_stores_away.py`, and thirty times over by the scenario
at the end of this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from faults import redis as scenarios
from faults.proxy import Proxy
from tests.faults.conftest import Small
from tests.faults.outages import HEALING, Server, is_clear_refusal, until
from tests.faults.posts import Posts, posting
from tests.journey.conftest import Platform
from tests.journey.workshop import Gate, gates
from tests.sse import Stream, connect

from trunkline.errors import Unavailable
from trunkline.streams.lost import LostWorkers
from trunkline.streams.workers import LIFETIME_MS, signs_of_life

PATIENCE = 20.0


@dataclass
class Fault:
    """One way in which Redis fails."""

    begin: Callable[[], Awaitable[object]]
    end: Callable[[], Awaitable[object]]
    hides: bool = False
    """Whether it does what it was asked to and nobody learns of it: then a message may be accepted and refused."""
    late: bool = False
    """Whether what is written first is taken, and only the next who writes is refused."""


def _of(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def do() -> None:
        work()

    return do


def fault_named(name: str, server: Server, proxy: Proxy) -> Fault:
    heal = _of(proxy.heal)
    return {
        "memory is full": Fault(
            lambda: server.ask("CONFIG", "SET", "maxmemory", "1"),
            lambda: server.ask("CONFIG", "SET", "maxmemory", "0"),
        ),
        "the disk is full": Fault(
            _of(lambda: server.fill_disk(True)), _of(lambda: server.fill_disk(False)), late=True
        ),
        "it has become a replica": Fault(
            lambda: server.ask("REPLICAOF", "127.0.0.1", "1"), lambda: server.ask("REPLICAOF", "NO", "ONE")
        ),
        "it hangs": Fault(_of(server.stop), _of(server.go_on)),
        "nothing reaches it": Fault(_of(lambda: proxy.stall("up")), heal),
        "nothing comes back from it": Fault(_of(lambda: proxy.stall("down")), heal, hides=True),
        "it cannot be connected to": Fault(_of(proxy.cut), heal),
    }[name]


class Books:
    """A client's books: what it sent, and every answer that its stream brings."""

    def __init__(self, stream: Stream) -> None:
        self.answers: Counter[int] = Counter()
        self.texts: dict[int, str] = {}
        self.errors: dict[int, Any] = {}
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why the stream has ended."""
        self._stream = stream
        self._ids = itertools.count(1000)
        self._arrived = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def post(self, tool: str, **arguments: object) -> tuple[int, httpx2.Response]:
        number = next(self._ids)
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        return number, await self._stream.post(message)

    async def accepted(self, tool: str, **arguments: object) -> int:
        number, response = await self.post(tool, **arguments)
        assert response.status_code == 202, response.text
        return number

    async def answered(self, *numbers: int) -> list[str]:
        async with self._arrived:
            await self._arrived.wait_for(lambda: all(self.answers[number] for number in numbers))
        return [self.texts[number] for number in numbers]

    async def aclose(self) -> None:
        self._reading.cancel()
        (outcome,) = await asyncio.gather(self._reading, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome
        assert set(self.answers.values()) <= {1}, "one answer each"

    async def _read(self) -> None:
        while True:
            try:
                event = await self._stream.event()
            except TimeoutError:
                continue  # nothing was said for a while, which is no fault
            if event.kind == "end":
                self.ended.set_result(event.data)
                await asyncio.Event().wait()
            message = event.message
            if "id" in message:
                self.errors[message["id"]] = message.get("error", {}).get("data")
                self.answers[message["id"]] += 1
                self.texts[message["id"]] = str(message.get("result", {}).get("content", [message])[0].get("text"))
                async with self._arrived:
                    self._arrived.notify_all()


@pytest.fixture
async def api(platform: Platform) -> str:
    return await platform.api()


@pytest.fixture
async def books(platform: Platform, api: str) -> AsyncIterator[Books]:
    """A session at the one API pod, with a worker that hosts the workshop."""
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        made = Books(stream)
        yield made
        await made.aclose()


@pytest.fixture
async def posts(platform: Platform, api: str, books: Books) -> AsyncIterator[Posts]:
    """Callers over streamable HTTP beside it."""
    async with posting(api, platform.key) as made:
        yield made


@pytest.fixture
async def make_gate() -> AsyncIterator[Callable[[str], Gate]]:
    made: list[Gate] = []

    def make(name: str) -> Gate:
        gates[name] = Gate(name)
        made.append(gates[name])
        return made[-1]

    yield make
    for gate in made:
        gates.pop(gate.name).open()


async def nothing_unfinished(platform: Platform) -> None:
    """Wait until no lane and no tenant has anything that waits, runs or counts."""
    tenant = platform.redis.keys.tenant((await platform.tenants.get("demo")).id)

    async def is_quiet() -> bool:
        counts = [await platform.redis.command("XLEN", platform.redis.keys.calls(lane)) for lane in range(4)]
        counts.append(int(await platform.redis.command("HGET", tenant.usage, "inflight") or 0))
        counts.append(await platform.redis.command("ZCARD", tenant.deadlines))
        return not any(counts)

    async with asyncio.timeout(PATIENCE):
        await until(is_quiet)


@pytest.mark.parametrize(
    "name",
    [
        "memory is full",
        "the disk is full",
        "it has become a replica",
        "it hangs",
        "nothing reaches it",
        "nothing comes back from it",
        "it cannot be connected to",
    ],
)
async def test_calls_are_refused_clearly_answers_are_kept_and_all_heals_by_itself(
    name: str,
    platform: Platform,
    server: Server,
    proxy: Proxy,
    api: str,
    books: Books,
    posts: Posts,
    make_gate: Callable[[str], Gate],
) -> None:
    fault = fault_named(name, server, proxy)
    running, refused_tool = make_gate("running"), make_gate("refused")
    refused_tool.open()
    runs = await books.accepted("wait", gate="running")
    posts.hold("wait", gate="running")
    await running.until(inside=3)

    await fault.begin()
    async with asyncio.timeout(PATIENCE):
        accepted = []
        while fault.late and (post := await books.post("wait", gate="refused"))[1].status_code == 202:
            accepted.append(post[0])
        sending = asyncio.create_task(posts.send("echo", text="refused"))
        number, response = await books.post("wait", gate="refused")
        refusals = [response, *await sending]
    assert all(map(is_clear_refusal, refusals)), [each.text for each in refusals]
    running.open()
    await running.until(inside=0)

    await fault.end()
    async with asyncio.timeout(HEALING):
        while True:
            again, response = await books.post("echo", text="again")
            if response.status_code == 202:
                break
            assert is_clear_refusal(response), response.text
        assert await books.answered(again, runs) == ["again", "through"]
        assert await posts.texts() == ["through"] * 2
        await books.answered(*accepted)
        async with httpx2.AsyncClient(trust_env=False) as http:

            async def is_ready() -> bool:
                return (await http.get(f"{api}/readyz")).json()["status"] == "ok"

            await until(is_ready)
    await nothing_unfinished(platform)
    assert running.entered == 3
    assert fault.hides or (refused_tool.entered, books.answers[number]) == (len(accepted), 0), (
        "refused is not accepted"
    )
    assert refused_tool.entered == len(accepted) + books.answers[number]


async def refused_for(seconds: float, books: Books, look: Callable[[], Awaitable[object]]) -> None:
    """Post until it is refused, then for so long, each time refused clearly; have a look after each."""
    end = None
    while end is None or time.monotonic() < end:
        _, response = await books.post("echo", text="meanwhile")
        if response.status_code != 202 or end:  # a full disk is noticed by what is written, and that by the next
            assert is_clear_refusal(response), response.text
            end = end or time.monotonic() + seconds
        await look()


async def sign_of_life(platform: Platform) -> float:
    """Until when, by Redis' clock, the last sign of the one worker holds."""
    ((sign, _),) = (await signs_of_life(platform.redis)).values()
    return sign


@pytest.mark.parametrize("name", ["memory is full", "the disk is full", "it has become a replica"])
async def test_a_worker_whose_signs_redis_did_not_take_for_long_is_not_dead_and_its_call_ends_with_its_result(
    name: str, platform: Platform, server: Server, proxy: Proxy, books: Books, make_gate: Callable[[str], Gate]
) -> None:
    fault, gate = fault_named(name, server, proxy), make_gate("running")
    lost, taken_for_dead = LostWorkers(platform.redis), []

    async def look() -> None:
        with contextlib.suppress(Unavailable):
            taken_for_dead.extend(await lost.look())

    async def gives_a_sign() -> bool:
        await look()  # looks all the time, so that one comes before the sign
        return await sign_of_life(platform) > before

    async with asyncio.timeout(PATIENCE):
        runs = await books.accepted("wait", gate="running")
        await gate.until(inside=1)
        await fault.begin()
        await refused_for(LIFETIME_MS / 1000 + 2, books, look)
        before = await sign_of_life(platform)
        await fault.end()
        await until(gives_a_sign)
        gate.open()
        assert await books.answered(runs) == ["through"], books.errors[runs]
    await nothing_unfinished(platform)
    assert (gate.entered, taken_for_dead) == (1, [])


async def test_a_slow_redis_makes_calls_slow_and_fails_none(proxy: Proxy, platform: Platform, books: Books) -> None:
    proxy.delay(0.3)
    async with asyncio.timeout(PATIENCE):
        posts = await asyncio.gather(*(books.post("echo", text=str(number)) for number in range(20)))
        assert {response.status_code for _, response in posts} == {202}
        texts = await books.answered(*(number for number, _ in posts))
    assert texts == [str(number) for number in range(20)]
    proxy.heal()
    await nothing_unfinished(platform)


async def test_flushed_scripts_are_noticed_by_nobody(server: Server, platform: Platform, books: Books) -> None:
    async def call(number: int) -> None:
        for turn in range(10):
            sent = await books.accepted("echo", text=f"{number}.{turn}")
            assert await books.answered(sent) == [f"{number}.{turn}"]

    async with asyncio.timeout(PATIENCE):
        calls = asyncio.gather(*(call(number) for number in range(10)))
        while not calls.done():
            await server.ask("SCRIPT", "FLUSH", "SYNC")
        await calls
    await nothing_unfinished(platform)


async def test_a_destroyed_group_is_made_anew_and_nothing_that_had_begun_begins_again(
    server: Server, platform: Platform, books: Books, make_gate: Callable[[str], Gate]
) -> None:
    await platform.worker("tests.journey.workshop:mcp")  # another one, which might take the calls of the first
    gate = make_gate("begun")
    begun = [await books.accepted("wait", gate="begun") for _ in range(6)]
    async with asyncio.timeout(PATIENCE):
        await gate.until(inside=6)
        for lane in range(4):
            await server.ask("XGROUP", "DESTROY", platform.redis.keys.calls(lane), "workers")
        async with asyncio.timeout(HEALING):
            assert await books.answered(await books.accepted("echo", text="goes on")) == ["goes on"]
        gate.open()
        assert await books.answered(*begun) == ["through"] * 6
    await nothing_unfinished(platform)
    assert gate.entered == 6


async def lose_last_moments(platform: Platform, server: Server, *, answered: bool) -> None:
    """Leave Redis as one comes back that had not written its last moments to its file when it died."""
    keys, ask = platform.redis.keys, server.ask
    tenant = keys.tenant((await platform.tenants.get("demo")).id)
    (session,) = await ask("ZRANGE", tenant.sessions, "0", "-1")
    name, outbox = keys.stream((await platform.tenants.get("demo")).id, session.decode())
    for field in await ask("HKEYS", name):
        if field.startswith((b"p:", b"o:")):
            await ask("HDEL", name, field.decode())
    await ask("DEL", tenant.deadlines)
    await ask("HDEL", tenant.usage, "inflight")
    for entry, _ in await ask("XRANGE", tenant.calls, "-", "+"):
        await ask("XDEL", tenant.calls, entry.decode())
    if answered:
        await ask("HSET", name, "box", "1 1 0 0")
        await ask("DEL", outbox)
    await ask("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.parametrize("answered", [False, True])
async def test_a_call_that_redis_has_lost_with_its_last_moments_is_answered_by_the_pod(
    answered: bool, server: Server, platform: Platform, books: Books, make_gate: Callable[[str], Gate]
) -> None:
    gate = make_gate("lost")
    async with asyncio.timeout(PATIENCE):
        if answered:  # the client has seen an answer that Redis knows nothing of any more
            assert await books.answered(await books.accepted("echo", text="seen")) == ["seen"]
        lost = await books.accepted("wait", gate="lost")
        await gate.until(inside=1)
        await lose_last_moments(platform, server, answered=answered)
        await books.answered(lost)
        assert books.errors[lost] == {"outcome": "unknown"}
        if answered:  # else the pod that had accepted the call may have answered it, and the session goes on
            assert await books.ended == "messages lost"
    assert gate.entered == 1


async def test_redis_killed_again_and_again_loses_no_call_and_doubles_none(small: Small) -> None:
    await small(scenarios.redis_killed)
