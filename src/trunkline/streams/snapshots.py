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

    async def grow(
        self, kind: str, name: str, end: tuple[int, bytes, str], start: tuple[int, str], *, broken: bool
    ) -> bool:
        """Keep the end of a chain, unless a later one is there, or one that shows it to be another chain.

        Args:
            kind: Of the record.
            name: Of the record.
            end: Its number, the record and its hash.
            start: Number and hash of the end that it has grown from.
            broken: Whether it says itself that it has grown from a wrong one; then nothing is doubted.

        Returns:
            False where there is doubt: then what was kept stays.
        """
        number, value, digest = end
        args: list[str | int | bytes] = [number, value, digest, _LIFETIME_MS, *start, int(broken)]
        return bool(await self._redis.script("anchor", [self._redis.keys.snapshot(kind, name)], args) >= 0)

    async def doubt(self, kind: str, name: str) -> None:
        """Have `grow` keep what is there."""
        await self._redis.command("HSET", self._redis.keys.snapshot(kind, name), "doubted", "1")
