"""Keys that are refused although they have not expired."""

from __future__ import annotations

import time

from trunkline.streams.client import Redis


class Revocations:
    """The revoked keys that any pod must refuse, Postgres or not."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, key_id: str, at: float, expires_at: float) -> None:
        """Refuse a key from `at` until it expires anyway (both epoch seconds); the earlier of two times counts."""
        await self._redis.script("revoke", [self._redis.keys.revoked], [key_id, at, expires_at, time.time()])

    async def all(self) -> dict[str, float]:
        """Every revoked key with the epoch seconds from which it is refused."""
        flat: list[bytes] = await self._redis.command("HGETALL", self._redis.keys.revoked)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return {key.decode(): float(value.partition(b" ")[0]) for key, value in pairs}
