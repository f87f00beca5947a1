"""The newest known state of records that live in Postgres, for pods that find Postgres away."""

from __future__ import annotations

from trunkline.streams.client import Redis

_LIFETIME_MS = 7 * 24 * 3600 * 1000


class Snapshots:
    """Versioned copies: an older version never replaces a newer one."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def get(self, kind: str, name: str) -> bytes | None:
        """The newest copy of a record, if there is one."""
        found: bytes | None = await self._redis.command("HGET", self._redis.keys.snapshot(kind, name), "value")
        return found

    async def put(self, kind: str, name: str, version: int, value: bytes) -> None:
        """Keep `value` unless a newer version is there."""
        key = self._redis.keys.snapshot(kind, name)
        await self._redis.script("snapshot", [key], [version, value, _LIFETIME_MS])
