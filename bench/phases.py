"""What is measured, over one transport of a running server: CPU per call and per session opened, latency, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.clients import CLIENTS, Session
from bench.servers import Server

OPENING_AT_ONCE = 32
SETTLE = 1.0
"""Seconds that work which trails behind the calls (audit batches) gets inside the measured time, and that a
server gets to come to rest before its memory is read."""
PHASE_TIMEOUT = 180.0
STORES = ("postgres",)
"""Roles reported beside, not in, "our processes and Redis"."""


@dataclass(frozen=True, slots=True)
class Load:
    """Many sessions calling at once."""

    calls: int
    warm_up: int
    """Calls made before the measured ones."""
    cpu_us: dict[str, float]
    """Microseconds of CPU per call, by role."""
    seconds: float
    median_ms: float
    p99_ms: float

    @property
    def total_us(self) -> float:
        """All processes and Redis, without Postgres."""
        return sum(value for role, value in self.cpu_us.items() if role not in STORES)


@dataclass(frozen=True, slots=True)
class Alone:
    """One session, one call at a time; milliseconds."""

    calls: int
    warm_up: int
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Opening:
    """Sessions opened over connections that there are."""

    sessions: int
    """So many with `initialize` alone, and as many with `notifications/initialized` behind it."""
    initialize_us: float
    """Microseconds of CPU per `initialize`, all processes and Redis, without Postgres."""
    total_us: float
    """The same per session that was opened whole."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Initialized connections that do nothing."""

    connections: int
    kib: dict[str, float]
    """Growth of resident memory per connection, by role."""
    cpu_ms_per_second: float
    """What keeping them costs, all roles but Postgres."""

    @property
    def total_kib(self) -> float:
        """All processes and Redis, without Postgres."""
        return sum(value for role, value in self.kib.items() if role not in STORES)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spent(before: dict[str, float], after: dict[str, float], divisor: float) -> dict[str, float]:
    return {role: (after[role] - before.get(role, 0.0)) / divisor for role in sorted(after)}


async def _open(stack: AsyncExitStack, server: Server, transport: str, count: int) -> list[Session]:
    sessions = [CLIENTS[transport](server.urls[transport], server.key) for _ in range(count)]
    gate = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(session: Session) -> None:
        async with gate:
            await stack.enter_async_context(session)

    await asyncio.gather(*(open_one(session) for session in sessions))
    return sessions


async def _calls(session: Session, name: int, tool: str, count: int) -> list[float]:
    return [await session.call(tool, f"session {name} says {number}") for number in range(count)]


async def _repeat(step: Callable[[], Awaitable[None]], times: int) -> None:
    for _ in range(times):
        await step()


async def _end(sessions: Sequence[Session]) -> None:
    """Check them for the last time, and have the server forget them: what stays is in the way of later rounds."""
    for each in sessions:
        each.check()
    await asyncio.gather(*(each.end() for each in sessions))


async def load(server: Server, transport: str, tool: str, sessions: int, calls: int, settle: float = SETTLE) -> Load:
    """`sessions` at once, each making `calls` one after the other, after a fifth as many for warming up."""
    loop = asyncio.get_running_loop()
    warm_up = max(1, calls // 5)
    async with asyncio.timeout(PHASE_TIMEOUT), AsyncExitStack() as stack:
        everyone = await _open(stack, server, transport, sessions)
        await asyncio.gather(*(_calls(each, name, tool, warm_up) for name, each in enumerate(everyone)))
        before, began = server.usage(), loop.time()
        taken = await asyncio.gather(*(_calls(each, name, tool, calls) for name, each in enumerate(everyone)))
        seconds = loop.time() - began
        await asyncio.sleep(settle)
        after = server.usage()
        await _end(everyone)
    latencies = [value * 1e3 for one in taken for value in one]
    cpu = spent(before.cpu, after.cpu, len(latencies) / 1e6)
    middle, slow = quantile(latencies, 0.5), quantile(latencies, 0.99)
    return Load(len(latencies), warm_up * sessions, cpu, seconds, middle, slow)


async def alone(server: Server, transport: str, tool: str, calls: int) -> Alone:
    """One session, `calls` one after the other, after a fifth as many for warming up."""
    warm_up = max(1, calls // 5)
    async with asyncio.timeout(PHASE_TIMEOUT), AsyncExitStack() as stack:
        (session,) = await _open(stack, server, transport, 1)
        await _calls(session, 0, tool, warm_up)
        taken = [value * 1e3 for value in await _calls(session, 0, tool, calls)]
        await _end([session])
    return Alone(calls, warm_up, quantile(taken, 0.5), quantile(taken, 0.99))


async def opening(server: Server, sessions: int, each: int) -> Opening:
    """Open `each` sessions of streamable HTTP one after the other over each of as many connections as `sessions`."""
    async with asyncio.timeout(PHASE_TIMEOUT), AsyncExitStack() as stack:
        everyone = await _open(stack, server, "http", sessions)
        before = server.usage()
        await asyncio.gather(*(_repeat(one.initialize, each) for one in everyone))
        await asyncio.sleep(SETTLE)
        between = server.usage()
        await asyncio.gather(*(_repeat(one.open, each) for one in everyone))
        await asyncio.sleep(SETTLE)
        after = server.usage()
        await _end(everyone)
    count = sessions * each
    halves = spent(before.cpu, between.cpu, count / 1e6), spent(between.cpu, after.cpu, count / 1e6)
    return Opening(count, *(sum(us for role, us in half.items() if role not in STORES) for half in halves))


async def idle(server: Server, transport: str, tool: str, connections: int) -> Idle:
    """Memory that `connections` initialized sessions add to a fresh server that has served a few before."""
    async with asyncio.timeout(PHASE_TIMEOUT):
        async with AsyncExitStack() as stack:
            first = await _open(stack, server, transport, OPENING_AT_ONCE)
            await asyncio.gather(*(_calls(each, name, tool, 10) for name, each in enumerate(first)))
        await asyncio.sleep(SETTLE)
        before = server.usage()
        async with AsyncExitStack() as stack:
            everyone = await _open(stack, server, transport, connections)
            for each in everyone:
                await each.listen()
                each.rest()
            await asyncio.sleep(SETTLE)
            after = server.usage()
            await asyncio.sleep(SETTLE)
            later = server.usage()
            for each in everyone:
                each.check()
    kib = spent(before.resident, after.resident, connections * 1024)
    keeping = spent(after.cpu, later.cpu, SETTLE / 1e3)
    return Idle(connections, kib, sum(value for role, value in keeping.items() if role not in STORES))
