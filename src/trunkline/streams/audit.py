"""Audit events on their way from the lanes to Postgres."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from trunkline.errors import Unavailable
from trunkline.streams.client import Redis
from trunkline.streams.connection import Argument, Connection, ConnectionLost, RedisRefusal
from trunkline.streams.keys import AUDIT_GROUP
from trunkline.streams.lanes import create_group

_ADOPT_EVERY = 5.0
_AT_ONCE = 16
"""Entries of one lane that are read at once, each of up to 64 events."""
_ABANDONED_MS = 10_000
"""After this long without acknowledgement, an entry is read by another writer; writing it twice does no harm."""
_FORGET_EVERY = 300.0
_GONE_MS = 3_600_000
"""A writer that lives asks every lane each `_ADOPT_EVERY`; one that has not for so long is gone."""

log = structlog.get_logger("trunkline.audit")


EVENT_LINES: Final = 9
"""Lines of an event, see `audit` in `finish.lua`."""


class AuditEntry(NamedTuple):
    """The events of calls that were ended together."""

    lane: int
    entry_id: bytes
    lines: Sequence[bytes]
    """Of each event `<tenant>:<session>:<call>`, outcome, microseconds for which it ran, bytes of its answer, worker,
    end, acceptance, JSON-RPC id and seed."""

    @property
    def events(self) -> int:
        """How many events it has."""
        return len(self.lines) // EVENT_LINES


class AuditFeed:
    """Reads the lanes' audit streams as one of several writers.

    Guarantee: every event is read at least once; it stays until it is acknowledged. While Redis is away, or refuses
    as it does when it starts, lost its data or has become a replica, nothing is read.
    """

    def __init__(self, redis: Redis, consumer: str) -> None:
        self._redis = redis
        self._consumer = consumer
        self._streams = [redis.keys.audit(lane) for lane in range(redis.keys.lanes)]
        self._lane_by_stream = {name.encode(): lane for lane, name in enumerate(self._streams)}
        self._connection: Connection | None = None
        self._id: int | None = None
        """By which Redis knows the connection."""
        self._hurried = False
        self._adopted_at = float("-inf")
        self._forgot_at = float("-inf")
        self._refused_with = ""

    async def read(self, limit: int, block_ms: int) -> list[AuditEntry]:
        """Up to about `limit` events, waiting at most `block_ms` for the first; those of dead writers first.

        Raises:
            Unavailable: Redis is away, or takes no writes.
        """
        try:
            connection = await self._ready()
            entries = await self._adopt(connection) or await self._claim(connection, limit, block_ms)
        except ConnectionLost:
            self._drop()
        except RedisRefusal as error:
            self._drop()
            if error.kind != self._refused_with:
                log.warning("reading audit events was refused", reason=str(error))
            self._refused_with = error.kind
        else:
            self._refused_with = ""
            return entries
        return []

    async def hurry(self) -> None:
        """Wait for no more events: a `read` that does comes back, and no other begins to.

        Should Redis be away just now, that read waits for as long as it was to.
        """
        self._hurried = True
        if self._connection is not None and self._id is not None:
            with contextlib.suppress(Unavailable, RedisRefusal):
                await self._redis.command("CLIENT", "UNBLOCK", self._id)

    async def ack(self, entries: Sequence[AuditEntry]) -> None:
        """All events of these are written, or set aside; forget them."""
        by_lane: dict[int, list[Argument]] = defaultdict(list)
        for entry in entries:
            by_lane[entry.lane] += (entry.entry_id, entry.events)
        for lane, written in by_lane.items():
            names = [self._streams[lane], self._redis.keys.unwritten(lane)]
            await self._redis.script("written", names, [AUDIT_GROUP, *written])

    async def backlog(self) -> int:
        """Events that are not written yet."""
        lanes = range(self._redis.keys.lanes)
        return sum([int(await self._redis.command("GET", self._redis.keys.unwritten(lane)) or 0) for lane in lanes])

    async def aclose(self) -> None:
        """Give the connection back; unacknowledged events go to another writer."""
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._id = None

    async def _ready(self) -> Connection:
        if self._connection is None:
            for stream in self._streams:
                await create_group(self._redis, stream, AUDIT_GROUP)
            self._connection = await self._redis.dial("audit")
            self._id = await self._connection.send("CLIENT", "ID")
        return self._connection

    async def _claim(self, connection: Connection, limit: int, block_ms: int) -> list[AuditEntry]:
        entries: list[AuditEntry] = []
        block: tuple[Argument, ...] = () if self._hurried else ("BLOCK", block_ms)
        more = True
        while more and sum(entry.events for entry in entries) < limit:
            reply = await connection.send(
                "XREADGROUP", "GROUP", AUDIT_GROUP, self._consumer, "COUNT", _AT_ONCE, *block,
                "STREAMS", *self._streams, *([">"] * len(self._streams)),
            )  # fmt: skip
            found = reply or ()
            entries += [_read(self._lane_by_stream[stream], *entry) for stream, each in found for entry in each]
            more = any(len(each) == _AT_ONCE for _, each in found)
            block = ()
        return entries

    async def _adopt(self, connection: Connection) -> list[AuditEntry]:
        """Every few seconds, take over what other writers (or this one, before a crash) left unacknowledged."""
        now = connection.now()
        if now - self._adopted_at < _ADOPT_EVERY:
            return []
        adopted = []
        for lane, stream in enumerate(self._streams):
            reply = await connection.send(
                "XAUTOCLAIM", stream, AUDIT_GROUP, self._consumer, _ABANDONED_MS, "0", "COUNT", _AT_ONCE
            )
            adopted += [_read(lane, entry, fields) for entry, fields in reply[1] if fields]
        if not adopted:  # where there was something there may be more
            self._adopted_at = now
            await self._forget_writers(now)
        return adopted

    async def _forget_writers(self, now: float) -> None:
        """Every few minutes, forget the writers that are gone: each start of a worker makes one in every lane."""
        if now - self._forgot_at < _FORGET_EVERY:
            return
        for stream in self._streams:
            await self._redis.script("retire", [stream], [AUDIT_GROUP, _GONE_MS])
        self._forgot_at = now


def _read(lane: int, entry: bytes, fields: Sequence[bytes]) -> AuditEntry:
    return AuditEntry(lane, entry, fields[1].split(b"\n"))
