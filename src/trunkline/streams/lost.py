"""What dead workers leave behind: found within five seconds, and given an end or a new beginning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import orjson

from trunkline.errors import INTERNAL_ERROR, Unavailable
from trunkline.metrics import Fate
from trunkline.streams.client import Redis
from trunkline.streams.connection import Argument, RedisRefusal
from trunkline.streams.keys import CALLS_GROUP
from trunkline.streams.workers import Vigil, signs_of_life

MOST_ATTEMPTS = 3
"""Workers that a call may cost, where it surely was the call; otherwise twice as many."""
_MOST_ENTRIES = 256
_MOST_PARKED = 1_000
_PARKED_FOR_MS = 30 * 24 * 3600 * 1000
_SLOTS_FOR_MS = 60_000
_RECOUNT_EVERY = 20.0
_ANSWERS_WITHIN = 0.5
"""Seconds that a look takes at most; one that took longer has waited for a Redis that was away or slow."""

UNKNOWN = orjson.dumps(
    {
        "code": INTERNAL_ERROR,
        "message": "The worker that ran this call was lost; whether it took effect is unknown.",
        "data": {"outcome": "unknown"},
    }
)
VANISHED = orjson.dumps(
    {
        "code": INTERNAL_ERROR,
        "message": "This call was lost with the Redis that had accepted it; whether it took effect is unknown.",
        "data": {"outcome": "unknown"},
    }
)
PARKED = orjson.dumps(
    {
        "code": INTERNAL_ERROR,
        "message": "Each worker that ran this call was lost with it; it was set aside.",
        "data": {"outcome": "parked"},
    }
)


class Reclaimed(NamedTuple):
    """What became of a dead worker's call."""

    call: str
    fate: Fate


@dataclass(frozen=True, slots=True)
class ParkedCall:
    """A call that was set aside."""

    id: str
    tenant: str
    session: str
    workers: tuple[str, ...]
    """Those that were lost with it."""
    parked_ms: int
    """When, by Redis' clock, epoch milliseconds."""
    tool: str
    """The tool that was called, as the client named it; empty for other requests."""


async def parked_calls(redis: Redis) -> list[ParkedCall]:
    """The calls of all lanes that were set aside, latest first; each lane remembers its newest 1,000."""
    lanes = range(redis.keys.lanes)
    found = await asyncio.gather(*(redis.command("XREVRANGE", redis.keys.parked(lane), "+", "-") for lane in lanes))
    calls = [_read_parked(entry, fields) for entries in found for entry, fields in entries]
    return sorted(calls, key=lambda call: call.parked_ms, reverse=True)


def _read_parked(entry: bytes, fields: Sequence[bytes]) -> ParkedCall:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    seed = named[b"e"]
    return ParkedCall(
        id=named[b"call"].decode(),
        tenant=named[b"tenant"].decode(),
        session=named[b"session"].decode(),
        workers=tuple(named[b"workers"].decode().split()),
        parked_ms=int(entry.partition(b"-")[0]),
        tool=orjson.loads(seed)[1] if seed else "",
    )


class LostWorkers:
    """Looks for dead workers, and after what they had claimed. Any number of processes may do so at once."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._vigil = Vigil()
        self._counted = (0, 0.0)

    async def look(self) -> list[Reclaimed]:
        """One look, to be taken every second or two; what cannot be done with Redis away is done by a later one.

        Returns:
            What became of the calls that were found.

        Raises:
            Unavailable: Redis is away.
        """
        began = time.monotonic()
        try:  # a Redis that takes no writes takes no signs of life either
            await self._redis.command("SET", self._redis.keys.looked, 1, "PX", _SLOTS_FOR_MS)
        except Unavailable:
            self._vigil.forget()
            raise
        signs = await signs_of_life(self._redis)
        claimants = await asyncio.gather(*(self._claimants(lane) for lane in range(self._redis.keys.lanes)))
        now = time.monotonic()
        if now - began > _ANSWERS_WITHIN:  # Redis was away, and workers could give it no sign
            self._vigil.forget()
        known = {worker for workers in claimants for worker in workers}
        dead = self._vigil.dead({worker: sign for worker, (sign, _) in signs.items()}, known, now)
        await self._tell_slots(sum(slots for worker, (_, slots) in signs.items() if worker not in dead), now)
        reclaimed: list[Reclaimed] = []
        if dead.intersection(known):
            suspects = await self._suspects()
            for lane, workers in enumerate(claimants):
                if gone := dead.intersection(workers):
                    reclaimed += await self.reclaim(lane, {worker: suspects.get(worker, b"") for worker in gone})
        return reclaimed

    async def _suspects(self) -> dict[str, bytes]:
        reply = await self._redis.command("HGETALL", self._redis.keys.suspects)
        return {worker.decode(): call for worker, call in zip(reply[::2], reply[1::2], strict=True)}

    async def _claimants(self, lane: int) -> list[str]:
        try:
            consumers = await self._redis.command("XINFO", "CONSUMERS", self._redis.keys.calls(lane), CALLS_GROUP)
        except RedisRefusal:  # no worker has been here yet, or Redis lost its data
            return []
        return [consumer[1].decode() for consumer in consumers]

    async def _tell_slots(self, slots: int, now: float) -> None:
        """Tell the lanes how many calls run at once; what they knew last holds a while."""
        told, at = self._counted
        if not slots or (slots == told and now - at < _RECOUNT_EVERY):
            return
        keys = self._redis.keys
        await asyncio.gather(
            *(self._redis.command("SET", keys.slots(lane), slots, "PX", _SLOTS_FOR_MS) for lane in range(keys.lanes))
        )
        self._counted = (slots, now)

    async def reclaim(self, lane: int, dead: Mapping[str, bytes]) -> list[Reclaimed]:
        """Give an end or a new beginning to what dead workers had claimed from a lane, and forget them.

        Args:
            lane: Number of the lane.
            dead: The workers, each with the call whose last attempt it ran, or nothing.
        """
        keys, settings = self._redis.keys, self._redis.settings
        reclaimed: list[Reclaimed] = []
        workers: list[Argument] = [part for pair in dead.items() for part in pair]
        while True:
            try:
                fates: Sequence[Any] = await self._redis.script(
                    "reclaim",
                    [keys.deadlines(lane), keys.calls(lane), keys.parked(lane)],
                    [
                        keys.lane(lane), keys.pods(lane),
                        settings.outbox_max_messages, settings.outbox_max_bytes, settings.outbox_ttl * 1000,
                        _MOST_ENTRIES, MOST_ATTEMPTS, UNKNOWN, PARKED, _MOST_PARKED, _PARKED_FOR_MS,
                        *workers,
                    ],
                )  # fmt: skip
            except (RedisRefusal, Unavailable):  # the group is lost, or Redis takes no writes: the next look
                return reclaimed
            handled, *became = fates
            for fate, call in zip(became[::2], became[1::2], strict=True):
                reclaimed.append(Reclaimed(call.decode(), cast("Fate", fate.decode())))
            if handled < _MOST_ENTRIES:
                return reclaimed
