"""Limits to what strangers try: so often a minute, counted for all pods together, before anything else is done."""

from __future__ import annotations

import hashlib

from trunkline.errors import TooManyRequests
from trunkline.streams.client import Redis


class RedisThrottle:
    """A rate limit for each of many, by kind (GCRA); who is counted is kept as a digest alone.

    Raises, from `check`:
        TooManyRequests: with the seconds to wait.
        Unavailable: Redis is away: what cannot be counted is not tried.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def check(self, kind: str, who: str, rate: float, burst: int) -> None:
        """Count one try of `who`, of `rate` a second and `burst` at once."""
        key = self._redis.keys.throttle(kind, hashlib.sha256(who.encode()).hexdigest())
        interval = round(1_000_000 / rate)
        wait_ms: int = await self._redis.script("throttle", [key], [interval, interval * burst])
        if wait_ms:
            raise TooManyRequests("Too many tries; wait, then try again.", retry_after=wait_ms / 1000)
