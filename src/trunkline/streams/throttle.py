"""Limits to what strangers try: so often a minute, counted for all pods together, before anything else is done."""

from __future__ import annotations

import hashlib

from trunkline.errors import NotStarted, TooManyRequests, Unavailable
from trunkline.streams.client import Redis

_REMEMBERED_MS = 86_400_000


class RedisThrottle:
    """A rate limit for each of many, by kind (GCRA); who is counted is kept as a digest alone.

    Raises:
        TooManyRequests: from `check`, with the seconds to wait.
        NotStarted: from `check`: Redis is away: what cannot be counted is not tried.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def check(self, kind: str, who: str, rate: float, burst: int) -> None:
        """Count one try of `who`, of `rate` a second and `burst` at once."""
        key = self._redis.keys.throttle(kind, hashlib.sha256(who.encode()).hexdigest())
        interval = round(1_000_000 / rate)
        try:
            wait_ms: int = await self._redis.script("throttle", [key], [interval, interval * burst])
        except Unavailable as error:
            raise NotStarted(error.message, retry_after=error.retry_after) from error
        if wait_ms:
            raise TooManyRequests("Too many tries; wait, then try again.", retry_after=wait_ms / 1000)

    async def tally(self, kind: str, who: str, seconds: float) -> int:
        """Count something of `who`; how often it was since it was last told, or 0 if that is not `seconds` ago.

        Raises:
            Unavailable: Redis is away.
        """
        key = self._redis.keys.throttle(kind, hashlib.sha256(who.encode()).hexdigest())
        count: int = await self._redis.script("tally", [key], [round(seconds * 1000), _REMEMBERED_MS])
        return count
