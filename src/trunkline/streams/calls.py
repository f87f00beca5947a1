"""Calls on their way from the API pods to the workers: accept, claim, cancel, sweep."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import structlog

from trunkline.envelope import Call, UnknownVersion
from trunkline.errors import (
    REQUEST_TIMEOUT,
    AuditBacklogFull,
    LaneFull,
    SessionNotFound,
    TooManyCalls,
    TooManyRequests,
    TrunklineError,
    Unavailable,
)
from trunkline.streams.batch import Batch
from trunkline.streams.client import PATIENCE, Redis
from trunkline.streams.connection import Argument, Connection, RedisRefusal, Reply
from trunkline.streams.keys import CALLS_GROUP
from trunkline.streams.sessions import Owner

log = structlog.get_logger(__name__)

_SWEEP_BATCH = 256
_MOST_RECOVERED = 10_000
"""More than a worker can have claimed: it has at most so many slots."""
TIMED_OUT = orjson.dumps(
    {
        "code": REQUEST_TIMEOUT,
        "message": "The call was not finished in time; whether it took effect is unknown.",
        "data": {"outcome": "unknown"},
    }
)


class Message(NamedTuple):
    """A message that an API pod wants accepted."""

    call: str
    """Our own id of it, UUIDv7 as 32 hex characters."""
    session: str
    request_id: bytes
    """The JSON-RPC id as JSON; empty for a notification."""
    body: bytes
    seed: bytes = b""
    """What is known now of the audit event; empty where none is due."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A tenant's limits, in the units of the accept script."""

    in_flight: int
    interval_us: float
    """Microseconds between messages at the rate limit."""
    burst_us: float
    """Microseconds by which messages may come early."""

    @classmethod
    def of(cls, rate: float, burst: int, in_flight: int) -> Bounds:
        """The bounds for `rate` messages a second with `burst` at once."""
        interval = 1_000_000 / rate
        return cls(in_flight, interval, interval * burst)


_Acceptance = tuple[Owner, Message, Bounds]


class Calls:
    """The lanes, as API pods (accept, cancel) and workers (claim, sweep) use them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        settings = redis.settings
        self._fixed = (
            int(settings.call_timeout * 1000),
            settings.session_ttl * 1000,
            settings.lane_max_length,
            settings.audit_max_backlog,
        )
        self._accepting: Batch[_Acceptance] = Batch(self._accept)

    async def accept(self, owner: Owner, message: Message, bounds: Bounds) -> None:
        """Accept a message: once this returns, a request gets exactly one answer.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
            TooManyRequests: the tenant's rate or number of unanswered requests is at its limit.
            Unavailable: the lane is full, too many audit events wait for Postgres, or Redis is away.
        """
        lane = self._redis.keys.tenant(owner.tenant).number
        refused = await self._accepting.add(lane, (owner, message, bounds))
        if refused:
            if refused[0] == b"late":  # or Redis' clock was set, and we must learn that
                await self._redis.clock.read(self._redis)
            raise _refusal(refused[0], refused[1])

    async def _accept(self, lane: int, acceptances: Sequence[_Acceptance]) -> Sequence[Any]:
        keys = self._redis.keys
        names = [keys.deadlines(lane), keys.calls(lane), keys.audit(lane)]
        until = int(self._redis.clock.now_ms() + PATIENCE * 1000)
        args: list[Argument] = [*self._fixed, keys.lane(lane), until]
        for owner, message, bounds in acceptances:
            args += (
                owner.principal, message.call, message.request_id, message.body, message.seed,
                owner.tenant, message.session, bounds.in_flight, bounds.interval_us, bounds.burst_us,
            )  # fmt: skip
        answers: Sequence[Any] = await self._redis.script("accept", names, args)
        return answers

    async def cancel(self, owner: Owner, session: str, request_id: bytes) -> list[str]:
        """Take back a request, named by its JSON-RPC id as JSON.

        Returns:
            Our ids of the calls that are cancelled by this; announce them, so that their workers stop.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        cancelled = await self._redis.script(
            "cancel",
            [keys.session(owner.tenant, session)[0], tenant.deadlines, tenant.calls, tenant.audit],
            [owner.principal, request_id, f"{owner.tenant}:{session}:", tenant.lane, tenant.base],
        )
        if cancelled == 0:
            raise SessionNotFound
        return [call.decode() for call in cancelled]

    async def sweep(self, lane: int, grace_ms: int) -> list[str]:
        """Answer the lane's calls that are `grace_ms` past their deadline; returns their ids."""
        keys = self._redis.keys
        settings = self._redis.settings
        swept = await self._redis.script(
            "sweep",
            [keys.deadlines(lane), keys.calls(lane), keys.audit(lane)],
            [
                grace_ms, _SWEEP_BATCH, keys.lane(lane), TIMED_OUT, keys.pods(lane),
                settings.outbox_max_messages, settings.outbox_max_bytes, settings.outbox_ttl * 1000,
                int(settings.call_timeout_max * 1000) + grace_ms,
            ],
        )  # fmt: skip
        return [call.decode() for call in swept]

    async def sweep_all(self, grace_ms: int) -> list[str]:
        """Sweep every lane; what cannot be swept now, with Redis away or its groups lost, stays due.

        Returns:
            The ids of the calls that were answered.
        """
        lanes = range(self._redis.keys.lanes)
        swept = await asyncio.gather(*(self.sweep(lane, grace_ms) for lane in lanes), return_exceptions=True)
        answered: list[str] = []
        for outcome in swept:
            if isinstance(outcome, list):
                answered += outcome
            elif not isinstance(outcome, Unavailable | RedisRefusal):
                raise outcome
        return answered

    async def create_groups(self) -> None:
        """Make the consumer group of every lane, where it is missing; calls that wait already belong to it."""
        for lane in range(self._redis.keys.lanes):
            await create_group(self._redis, self._redis.keys.calls(lane), CALLS_GROUP)


class LaneReader:
    """Claims calls for one worker, over a connection of its own, since it blocks."""

    def __init__(self, connection: Connection, redis: Redis, worker: str) -> None:
        self._connection = connection
        self._redis = redis
        self._worker = worker
        self._id = 0
        self._streams = [redis.keys.calls(lane) for lane in range(redis.keys.lanes)]
        self._lane_by_stream = {name.encode(): lane for lane, name in enumerate(self._streams)}
        self._next = 0
        self._busy: list[int] = []
        """Lanes that had more calls than they were asked for."""

    async def claim(self, free: int, block_ms: int) -> list[Call]:
        """Wait up to `block_ms` for calls and claim at most `free` (> 0) of them, from the lanes in turn.

        Redis bounds what it reads per stream: every lane first gets its even share of the slots, then the lanes
        that had more than that share what is left. Too few slots for a share go to some lanes, in turn; only where
        all lanes are empty, and several get a call at the same moment, does each of these give one, be it too many.

        Raises:
            RedisRefusal: among others NOGROUP, when Redis lost the lanes' consumer groups.
            ConnectionLost: whatever was being claimed stays pending for this worker.
        """
        lanes = len(self._streams)
        if free < lanes:
            return await self._claim_few(free, block_ms)
        calls = await self._claim_busy(free - lanes) if self._busy and free > lanes else []
        if not calls:
            share = free // lanes
            calls = await self._read(range(lanes), share, block_ms)
            self._busy = _lanes_with(calls, share)
            left = (free - len(calls)) // len(self._busy) if self._busy else 0
            calls += await self._read(self._busy, left, None) if left else []
        return calls

    async def _claim_busy(self, free: int) -> list[Call]:
        """Claim from the lanes that had more than they were asked for last time, and one call from each lane."""
        busy = self._busy[:free]
        asked = (self._ask(busy, free // len(busy), None), self._ask(range(len(self._streams)), 1, None))
        calls = [call for reply in asked for call in self._parse(await reply)]
        self._busy = _lanes_with(calls, 2)
        return calls

    async def _claim_few(self, free: int, block_ms: int) -> list[Call]:
        """Claim with fewer slots than lanes: look into all lanes in turn, then wait for the first call of any."""
        lanes = len(self._streams)
        for _ in range(0, lanes, free):
            chosen = [(self._next + step) % lanes for step in range(free)]
            self._next = (self._next + free) % lanes
            if calls := await self._read(chosen, 1, None):
                return calls
        return await self._read(range(lanes), 1, block_ms)

    async def recover(self) -> list[Call]:
        """What is claimed for this worker, some of which may never have reached it: the connection broke before."""
        return await self._read(range(len(self._streams)), _MOST_RECOVERED, None, after="0")

    async def identify(self) -> None:
        """Learn by which id Redis knows the connection, so that `unblock` can name it."""
        self._id = await self._connection.send("CLIENT", "ID")

    async def unblock(self) -> None:
        """Have a claim that waits come back empty-handed; one that has just found calls still brings them."""
        if self._id:
            await self._redis.command("CLIENT", "UNBLOCK", self._id)

    async def _read(self, lanes: Sequence[int], count: int, block_ms: int | None, after: str = ">") -> list[Call]:
        return self._parse(await self._ask(lanes, count, block_ms, after))

    def _ask(self, lanes: Sequence[int], count: int, block_ms: int | None, after: str = ">") -> asyncio.Future[Reply]:
        block: tuple[Argument, ...] = () if block_ms is None else ("BLOCK", block_ms)
        streams = [self._streams[lane] for lane in lanes]
        return self._connection.send(
            "XREADGROUP", "GROUP", CALLS_GROUP, self._worker, "COUNT", count, *block,
            "STREAMS", *streams, *([after] * len(streams)),
        )  # fmt: skip

    def _parse(self, reply: Reply) -> list[Call]:
        calls = []
        for stream, entries in reply or ():
            lane = self._lane_by_stream[stream]
            for entry, fields in entries:
                if not fields:  # acknowledged meanwhile
                    continue
                try:
                    calls.append(_read_entry(lane, entry, fields))
                except UnknownVersion as error:  # answered by the sweep, at its deadline
                    log.error("call not understood", reason=str(error))
        return calls


def _lanes_with(calls: Sequence[Call], count: int) -> list[int]:
    """The lanes from which at least so many calls came."""
    return [lane for lane, found in Counter(call.lane for call in calls).items() if found >= count]


def _read_entry(lane: int, entry: bytes, fields: Sequence[bytes]) -> Call:
    return Call.from_entry(lane, entry, dict(zip(fields[::2], fields[1::2], strict=True)))


async def create_group(redis: Redis, stream: str, group: bytes) -> None:
    """Make a consumer group that sees everything in the stream; harmless where it exists."""
    try:
        await redis.command("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
    except RedisRefusal as error:
        if error.kind != "BUSYGROUP":
            raise


def _refusal(reason: bytes, retry_ms: int) -> TrunklineError:
    seconds = max(retry_ms / 1000, 0.001)
    match reason:
        case b"gone":
            return SessionNotFound()
        case b"rate":
            return TooManyRequests("The tenant sends faster than its rate limit allows.", retry_after=seconds)
        case b"inflight":
            return TooManyCalls(retry_after=seconds)
        case b"lane":
            return LaneFull(retry_after=seconds)
        case b"late":
            return Unavailable("Redis takes too long; try again shortly.", retry_after=seconds)
        case _:
            return AuditBacklogFull(retry_after=seconds)
