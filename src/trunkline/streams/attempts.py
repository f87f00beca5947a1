"""A worker's claim on a call: recorded before anything happens that must not happen twice, and given back undone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import IntEnum

from trunkline.envelope import Call
from trunkline.errors import Unavailable
from trunkline.streams.batch import Batch
from trunkline.streams.client import Redis
from trunkline.streams.connection import Argument


class Verdict(IntEnum):
    """Whether a worker may begin an attempt."""

    GO = 1
    GONE = 0
    """Nobody waits for an answer any more."""
    NOT_OURS = -1
    """The call was given to another worker, or this attempt was begun elsewhere."""


class Attempts:
    """Starts and hands back, for one worker."""

    def __init__(self, redis: Redis, worker: str) -> None:
        self._redis = redis
        self._worker = worker
        self._starting: Batch[tuple[Call, bool]] = Batch(self._start)

    async def start(self, call: Call, repeatable: bool) -> Verdict:
        """Record that this worker begins an attempt; once this says GO, no other worker will begin the same.

        Where replicas are to have what was done, they have this, too, when it returns.

        Tries until Redis answers. Should this worker die, a call that is not repeatable is answered as unknown rather
        than run again.
        """
        return Verdict(await self._starting.add(call.lane, (call, repeatable)))

    async def _start(self, lane: int, starts: Sequence[tuple[Call, bool]]) -> Sequence[int]:
        keys = self._redis.keys
        args: list[Argument] = [keys.lane(lane)]
        for call, repeatable in starts:
            mark = f"{call.attempt} {self._worker} {'r' if repeatable else 'n'}"
            args += (call.tenant, call.session, call.id, call.entry, mark)
        verdicts: Sequence[int] = await self._redis.confirmed("start", [keys.calls(lane)], args, patience=None)
        return verdicts

    async def suspect(self, call: Call) -> None:
        """Record, before it begins, that this worker runs a call that two others were lost with. Never gives up."""
        await self._redis.confirmed("suspect", [self._redis.keys.suspects], [self._worker, call.id], patience=None)

    async def acquit(self) -> None:
        """This worker has outlived that."""
        with contextlib.suppress(Unavailable):
            await self._redis.command("HDEL", self._redis.keys.suspects, self._worker)

    async def hand_back(self, calls: Iterable[Call], *, begun: bool) -> int:
        """Give calls back to their lanes: never begun, or begun and repeatable. Returns how many went back.

        Raises:
            Unavailable: Redis is away.
        """
        keys = self._redis.keys
        by_lane: defaultdict[int, list[Argument]] = defaultdict(list)
        for call in calls:
            by_lane[call.lane] += (call.entry, int(begun))
        counts = await asyncio.gather(
            *(
                self._redis.script("handback", [keys.deadlines(lane), keys.calls(lane)], [keys.lane(lane), *entries])
                for lane, entries in by_lane.items()
            )
        )
        return sum(counts)
