"""Station 3, claim: the lanes as a worker reads them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from trunkline.envelope import Call, UnknownVersion
from trunkline.streams.client import Redis
from trunkline.streams.connection import Argument, Connection, ConnectionLost, RedisRefusal, Reply
from trunkline.streams.keys import CALLS_GROUP

log = structlog.get_logger(__name__)

_MOST_RECOVERED = 10_000
"""More than a worker can have claimed: it has at most so many slots."""


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
        self._confirmations = redis.replicas.on(connection) if redis.replicas is not None else None
        self._unsure: dict[str, Call] = {}
        """By their ids, calls that were claimed and may not be begun yet, for replicas may not have them."""
        self._sure: asyncio.Future[bool] | None = None
        self._leaving = False

    async def claim(self, free: int, block_ms: int) -> list[Call]:
        """As `_claim`; where replicas are to have what was done, they know of these calls and of the claim.

        So nothing begins that was not accepted for good: an API pod may refuse it still.
        """
        calls = await self._claim(free, block_ms)
        return calls if self._confirmations is None or not calls else await self._sure_of(calls)

    async def _sure_of(self, calls: Sequence[Call]) -> list[Call]:
        if self._confirmations is None or self._leaving:  # who leaves begins none of them
            return list(calls)
        self._unsure = {call.id: call for call in calls}
        self._sure = self._confirmations.join()
        if not await self._sure:
            raise ConnectionLost("the connection to Redis was lost before replicas knew of a claim")
        calls, self._unsure = list(self._unsure.values()), {}
        return calls

    def forget(self, call: str) -> None:
        """A call was taken back that may have been claimed and not handed out yet."""
        self._unsure.pop(call, None)

    async def _claim(self, free: int, block_ms: int) -> list[Call]:
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
        return await self._sure_of(await self._read(range(len(self._streams)), _MOST_RECOVERED, None, after="0"))

    async def identify(self) -> None:
        """Learn by which id Redis knows the connection, so that `unblock` can name it."""
        self._id = await self._connection.send("CLIENT", "ID")

    async def unblock(self) -> None:
        """Have a claim that waits come back empty-handed; one that has just found calls still brings them."""
        self._leaving = True
        if self._sure is not None and not self._sure.done():
            self._sure.set_result(True)
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
                    calls.append(Call.from_entry(lane, entry, fields))
                except UnknownVersion as error:  # answered by the sweep, at its deadline
                    log.error("call not understood", reason=str(error))
        return calls


def _lanes_with(calls: Sequence[Call], count: int) -> list[int]:
    """The lanes from which at least so many calls came."""
    return [lane for lane, found in Counter(call.lane for call in calls).items() if found >= count]


async def create_groups(redis: Redis) -> None:
    """Make the consumer group of every lane, where it is missing; calls that wait already belong to it."""
    for lane in range(redis.keys.lanes):
        await create_group(redis, redis.keys.calls(lane), CALLS_GROUP)


async def create_group(redis: Redis, stream: str, group: bytes) -> None:
    """Make a consumer group that sees everything in the stream; harmless where it exists."""
    try:
        await redis.command("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
    except RedisRefusal as error:
        if error.kind != "BUSYGROUP":
            raise
