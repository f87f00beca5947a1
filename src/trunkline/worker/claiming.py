"""Station 3, claim: as many calls as a worker has slots free for, until it stops, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from trunkline.envelope import Call
from trunkline.errors import Unavailable
from trunkline.streams.client import Redis
from trunkline.streams.connection import ConnectionLost, RedisRefusal
from trunkline.streams.lanes import LaneReader, create_groups
from trunkline.worker.clients import unless_away
from trunkline.worker.slots import Slots

_BLOCK_MS = 500
"""How long one look at empty lanes takes; also the longest that a stop waits for it."""
_BUSY = 4
"""Calls in one claim from which on the worker counts as busy; then it lets more calls gather before the next."""
_GATHER = 0.004
"""Seconds for which a busy worker lets calls gather: claims, answers and deliveries then travel in batches."""

log = structlog.get_logger(__name__)


class Claiming:
    """Claims calls for the slots of one worker, over a connection that is made anew when it breaks.

    Guarantees: once `stop` was called, what a claim brings is no worker's to begin.
    """

    def __init__(
        self,
        redis: Redis,
        worker: str,
        slots: Slots,
        claimed: Callable[[Sequence[Call]], None],
        hand_back: Callable[[Sequence[Call]], Awaitable[None]],
    ) -> None:
        """`claimed` gets the calls of each claim, `hand_back` those that came when it had been stopped."""
        self._redis = redis
        self._worker = worker
        self._slots = slots
        self._claimed = claimed
        self._hand_back = hand_back
        self._slot_freed = asyncio.Event()
        self._stopping = False
        self._unblocking: asyncio.Task[None] | None = None
        self.reader: LaneReader | None = None
        """The lanes as they are read now; None without a connection."""

    async def run(self) -> None:
        """Claim until `stop`."""
        pause = 0.05
        while not self._stopping:
            try:
                await create_groups(self._redis)
                await self._claim_until_lost()
                pause = 0.05
            except (ConnectionLost, Unavailable):
                pause = min(pause * 2, 0.5)
            except RedisRefusal as error:
                # NOGROUP: Redis lost its data; the groups are made anew.
                log.warning("claiming was refused", reason=str(error))
                pause = min(pause * 2, 0.5)
            await asyncio.sleep(pause if not self._stopping else 0)

    def stop(self) -> None:
        """Claim nothing more; a claim that waits in Redis is sent back empty-handed."""
        self._stopping = True
        self._slot_freed.set()
        if self.reader is not None:
            self._unblocking = asyncio.create_task(unless_away(self.reader.unblock()))

    def slot_freed(self) -> None:
        """There may be room again."""
        self._slot_freed.set()

    def forget(self, call_id: str) -> None:
        """The client took a call back, which may have been claimed and not handed out yet."""
        if self.reader is not None:
            self.reader.forget(call_id)

    async def _claim_until_lost(self) -> None:
        connection = await self._redis.dial("lanes", timeout=_BLOCK_MS / 1000 + 4)
        reader = LaneReader(connection, self._redis, self._worker)
        try:
            await reader.identify()
            self.reader = reader
            self._claimed(await reader.recover())
            while not self._stopping:
                free = self._slots.claimable
                if not free:
                    self._slot_freed.clear()
                    await self._slot_freed.wait()
                    continue
                claimed = await reader.claim(free, _BLOCK_MS)
                if self._stopping:
                    await self._hand_back(claimed)
                    return
                self._claimed(claimed)
                if len(claimed) >= _BUSY:
                    await asyncio.sleep(_GATHER)
        finally:
            self.reader = None
            connection.close()
