"""What every process does beside its work: answer overdue calls, and look after those of dead workers."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from trunkline.errors import Unavailable
from trunkline.metrics import Metrics
from trunkline.streams.calls import Calls
from trunkline.streams.client import Redis
from trunkline.streams.lost import LostWorkers

log = structlog.get_logger(__name__)


class Custodian:
    """Looks at all lanes from time to time. Any number may do so at once: each call is found by one of them."""

    def __init__(self, redis: Redis, metrics: Metrics, *, every: float, grace_ms: int) -> None:
        """`every`: seconds between looks; `grace_ms`: how long after its deadline a call is left to others."""
        self._calls = Calls(redis)
        self._lost = LostWorkers(redis)
        self._metrics = metrics
        self._every = every
        self._grace_ms = grace_ms

    async def run(self) -> None:
        """Look until cancelled; with Redis away, when it is back."""
        while True:
            await self.look()
            await asyncio.sleep(self._every)

    async def look(self) -> None:
        """Look once. The first look also tells the lanes how many calls all workers run at once."""
        with contextlib.suppress(Unavailable):
            for call, fate in await self._lost.look():
                log.warning("call of a lost worker", call=call, fate=fate)
                self._metrics.reclaimed(fate)
                if fate != "again":
                    self._metrics.executed("error")
        for call in await self._calls.sweep_all(self._grace_ms):
            log.warning("call answered by the sweep", call=call)
            self._metrics.executed("timeout")
