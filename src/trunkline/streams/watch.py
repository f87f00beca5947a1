"""What `/metrics` tells beside a process' own work: whether the stores answer, and how much waits in Redis."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from trunkline.errors import Unavailable
from trunkline.metrics import Metrics, Store
from trunkline.streams.client import Redis
from trunkline.streams.connection import RedisRefusal
from trunkline.streams.workers import signs_of_life

_EVERY = 5.0
_PATIENCE = 2.0
"""Seconds that a store has to answer before it counts as away."""


class Watch:
    """Looks every few seconds. While Redis is away, what only it knows is not a number, and no alert's threshold."""

    def __init__(
        self, redis: Redis, ping_database: Callable[[], Awaitable[None]], metrics: Metrics, *, lanes: bool
    ) -> None:
        """`lanes`: whether to tell what waits in all lanes; that of one process is enough, and workers need not."""
        self._redis = redis
        self._ping_database = ping_database
        self._metrics = metrics
        self._lanes = lanes

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Look once."""
        await asyncio.gather(self._ask("postgres", self._ping_database), self._ask("redis", self._ping_redis))
        self._metrics.redis_reconnects_total.value = self._redis.reopened_total
        if self._lanes:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._measure()
            except (Unavailable, RedisRefusal, TimeoutError):
                self._forget()

    async def _ask(self, store: Store, ping: Callable[[], Awaitable[None]]) -> None:
        metrics, started = self._metrics, time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE):
                await ping()
        except (Unavailable, RedisRefusal, TimeoutError):
            metrics.store_failures_total[store].inc()
            metrics.store_up[store].set(0)
        else:
            metrics.store_up[store].set(1)
            metrics.store_seconds[store].set(time.perf_counter() - started)

    async def _ping_redis(self) -> None:
        await self._redis.command("PING")

    async def _measure(self) -> None:
        metrics, now = self._metrics, self._redis.clock.now_ms()
        signs = await signs_of_life(self._redis)
        lanes = await asyncio.gather(*(self._gauge(lane) for lane in range(self._redis.keys.lanes)))
        waiting, oldest, pending, parked, unwritten, unwritten_oldest = zip(*lanes, strict=True)
        metrics.backlog_calls.set(sum(waiting))
        metrics.backlog_oldest_seconds.set(max(oldest) / 1000)
        metrics.pending_calls.set(sum(pending))
        metrics.parked_calls.set(sum(parked))
        metrics.audit_backlog_events.set(sum(unwritten))
        metrics.audit_oldest_seconds.set(max(unwritten_oldest) / 1000)
        alive = [slots for until, slots in signs.values() if until > now]
        metrics.workers.set(len(alive))
        metrics.worker_slots.set(sum(alive))

    async def _gauge(self, lane: int) -> tuple[int, int, int, int, int, int]:
        keys = self._redis.keys
        names = [keys.calls(lane), keys.deadlines(lane), keys.parked(lane), keys.audit(lane), keys.unwritten(lane)]
        reply: tuple[int, int, int, int, int, int] = await self._redis.script("gauge", names, [keys.lane(lane)])
        return reply

    def _forget(self) -> None:
        for gauge in self._metrics.of_lanes:
            gauge.set(math.nan)
