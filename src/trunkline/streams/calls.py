"""Calls on their way from the API pods to the workers: accept, claim, cancel, sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import structlog

from trunkline.envelope import Call, UnknownVersion
from trunkline.errors import REQUEST_TIMEOUT, SessionNotFound, TooManyRequests, TrunklineError, Unavailable
from trunkline.streams.client import Redis
from trunkline.streams.connection import Connection, RedisRefusal
from trunkline.streams.keys import CALLS_GROUP
from trunkline.streams.sessions import Owner

log = structlog.get_logger(__name__)

_SWEEP_BATCH = 256
TIMED_OUT = orjson.dumps(
    {
        "code": REQUEST_TIMEOUT,
        "message": "The call was not finished in time; whether it took effect is unknown.",
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
    caller: bytes
    """The principal as the worker needs it, see `Call.caller`."""
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


class Calls:
    """The lanes, as API pods (accept, cancel) and workers (claim, sweep) use them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        settings = redis.settings
        self._timeout_ms = int(settings.call_timeout * 1000)
        self._fixed = (settings.session_ttl * 1000, settings.lane_max_length, settings.audit_max_backlog)

    async def accept(self, owner: Owner, message: Message, bounds: Bounds) -> None:
        """Accept a message: once this returns, a request gets exactly one answer.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
            TooManyRequests: the tenant's rate or number of unanswered requests is at its limit.
            Unavailable: the lane is full, too many audit events wait for Postgres, or Redis is away.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        refused = await self._redis.script(
            "accept",
            (
                *keys.session(owner.tenant, message.session),
                tenant.deadlines, tenant.calls, tenant.audit, tenant.usage, tenant.sessions,
            ),
            (
                owner.principal, message.call, message.request_id, message.body, self._timeout_ms, message.seed,
                owner.tenant, message.session, message.caller,
                *self._fixed, bounds.in_flight, bounds.interval_us, bounds.burst_us,
            ),
        )  # fmt: skip
        if refused:
            raise _refusal(refused[0], refused[1])

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
            [keys.session(owner.tenant, session)[0], tenant.deadlines, tenant.calls, tenant.audit, tenant.usage],
            [owner.principal, request_id, f"{owner.tenant}:{session}:"],
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
            ],
        )  # fmt: skip
        return [call.decode() for call in swept]

    async def create_groups(self) -> None:
        """Make the consumer group of every lane, where it is missing; calls that wait already belong to it."""
        for lane in range(self._redis.keys.lanes):
            await create_group(self._redis, self._redis.keys.calls(lane), CALLS_GROUP)


class LaneReader:
    """Claims calls for one worker, over a connection of its own, since it blocks."""

    def __init__(self, connection: Connection, redis: Redis, worker: str) -> None:
        self._connection = connection
        self._worker = worker
        self._streams = [redis.keys.calls(lane) for lane in range(redis.keys.lanes)]
        self._lane_by_stream = {name.encode(): lane for lane, name in enumerate(self._streams)}
        self._next = 0

    async def claim(self, free: int, block_ms: int) -> list[Call]:
        """Wait up to `block_ms` for calls and claim at most `free` (> 0) of them, from the lanes in turn.

        COUNT bounds what is read per stream, so few free slots read as many lanes with one call each.

        Raises:
            RedisRefusal: among others NOGROUP, when Redis lost the lanes' consumer groups.
            ConnectionLost: whatever was being claimed stays pending for this worker.
        """
        lanes = len(self._streams)
        if free >= lanes:
            chosen, count = self._streams, free // lanes
        else:
            turn = self._next
            chosen, count = [self._streams[(turn + step) % lanes] for step in range(free)], 1
            self._next = (turn + free) % lanes
            block_ms = min(block_ms, 50)  # the other lanes wait meanwhile
        reply = await self._connection.send(
            "XREADGROUP", "GROUP", CALLS_GROUP, self._worker, "COUNT", count, "BLOCK", block_ms,
            "STREAMS", *chosen, *([">"] * len(chosen)),
        )  # fmt: skip
        calls = []
        for stream, entries in reply or ():
            lane = self._lane_by_stream[stream]
            for entry, fields in entries:
                try:
                    calls.append(_read(lane, entry, fields))
                except UnknownVersion as error:  # answered by the sweep, at its deadline
                    log.error("call not understood", reason=str(error))
        return calls


def _read(lane: int, entry: bytes, fields: Sequence[bytes]) -> Call:
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
            return TooManyRequests("The tenant has as many unanswered calls as it may have.", retry_after=seconds)
        case b"lane":
            return Unavailable("Too many calls wait for a worker; try again shortly.", retry_after=seconds)
        case _:
            return Unavailable("Too many audit events wait to be written; try again shortly.", retry_after=seconds)
