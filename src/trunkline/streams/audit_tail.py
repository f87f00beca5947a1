"""Says that logs have grown, to whoever follows one.

One channel serves all tenants: a writer publishes once for a batch, and only pods that follow a log listen. What it
carries may be lost; who listens looks into Postgres now and then anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from trunkline.errors import Unavailable
from trunkline.streams.client import Redis
from trunkline.streams.subscriber import Subscriber


async def log_grew(redis: Redis, tenants: Collection[str]) -> None:
    """Tell that there are new entries in the logs of these tenants, by their ids."""
    with contextlib.suppress(Unavailable):
        await redis.command("PUBLISH", redis.keys.tail, " ".join(tenants), patience=0)


class TailSignals:
    """Hears of growing logs while somebody in this process follows one."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._followers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._listener: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listening(self, tenant: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the tenant's log has grown, or may have."""
        grew = asyncio.Event()
        self._followers[tenant].add(grew)
        if self._listener is None:
            subscriber = Subscriber(self._redis, [self._redis.keys.tail], self._heard, self._maybe_missed)
            self._listener = asyncio.create_task(subscriber.run(), name="audit tail")
        try:
            yield grew
        finally:
            self._followers[tenant].discard(grew)
            if not self._followers[tenant]:
                del self._followers[tenant]
            if not self._followers:
                await self.aclose()

    async def aclose(self) -> None:
        """Stop listening."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    def _heard(self, _: bytes, payload: bytes) -> None:
        for tenant in payload.decode().split():
            for grew in self._followers.get(tenant, ()):
                grew.set()

    async def _maybe_missed(self) -> None:
        for followers in self._followers.values():
            for grew in followers:
                grew.set()
