"""What operators and load balancers ask: alive, ready, how busy, and with which keys tokens are signed."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable

from trunkline import __version__
from trunkline.api.http import Request
from trunkline.errors import TrunklineError, Unauthorized
from trunkline.metrics import Metrics
from trunkline.streams.client import Redis
from trunkline.streams.workers import count_workers

_PATIENCE = 1.0
"""Seconds that a store has to answer before it counts as away."""


class Health:
    """Answers the addresses that need no tenant."""

    def __init__(
        self,
        redis: Redis,
        check_database: Callable[[], Awaitable[None]],
        metrics: Metrics,
        jwks: Callable[[], object],
        pod: str,
    ) -> None:
        self._redis = redis
        self._check_database = check_database
        self._metrics = metrics
        self._jwks = jwks
        self._pod = pod
        self._started = time.monotonic()
        self._metrics_key = redis.settings.metrics_key.get_secret_value()
        self.draining = False
        self.listening: Callable[[], bool] = lambda: False
        """Whether this pod hears what is published for its streams."""

    async def livez(self, request: Request) -> None:
        """200 while the process serves at all; asks no store, so that no store's outage restarts pods."""
        await request.answer_json(200, {"status": "ok"})

    async def readyz(self, request: Request) -> None:
        """200 while calls are accepted; says which store is away.

        Postgres being away does not stop calls, so it makes the pod degraded, not unready.
        """
        redis, postgres = await asyncio.gather(self._workers(), self._database())
        ready = redis is not None and self.listening() and not self.draining
        status = "draining" if self.draining else "unavailable" if not ready else "ok" if postgres else "degraded"
        document = {
            "status": status,
            "stores": {"redis": "ok" if redis is not None else "away", "postgres": "ok" if postgres else "away"},
            "workers": redis or 0,
        }
        await request.answer_json(200 if ready else 503, document)

    async def health(self, request: Request) -> None:
        """What this pod is and how many streams it holds."""
        document = {
            "status": "draining" if self.draining else "ok",
            "version": __version__,
            "active_connections": int(self._metrics.active_connections.value),
            "pod": self._pod,
            "uptime_seconds": int(time.monotonic() - self._started),
        }
        await request.answer_json(200, document)

    async def metrics(self, request: Request) -> None:
        """Prometheus' text format; asks for METRICS_KEY where one is set."""
        given = request.header(b"authorization").removeprefix("Bearer ")
        if self._metrics_key and not hmac.compare_digest(given.encode(), self._metrics_key.encode()):
            raise Unauthorized("Metrics need the bearer token that TRUNKLINE_METRICS_KEY holds.")
        await request.answer(200, self._metrics.render(), (b"content-type", self._metrics.content_type.encode()))

    async def jwks(self, request: Request) -> None:
        """The public keys that API keys are verified with (RFC 7517)."""
        await request.answer_json(200, self._jwks())

    async def _workers(self) -> int | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await count_workers(self._redis)
        except (TrunklineError, TimeoutError):
            return None

    async def _database(self) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._check_database()
        except (TrunklineError, TimeoutError):
            return False
        return True
