"""What was done while Postgres was away: in force at once, and written down when it is back."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from trunkline.streams.client import Redis


class Emergency(NamedTuple):
    """Something done that Postgres does not know yet."""

    what: str
    """`revoke` or `suspend`."""
    target: str
    """The id of the key, or the slug of the tenant."""
    at: float
    """Epoch seconds, by Redis' clock."""
    by: tuple[str, str, str]
    """Kind, id and address of who did it."""


class Emergencies:
    """The notes of them, until they are written down."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def note(self, emergency: Emergency) -> None:
        """Remember that this has to be written down."""
        value = orjson.dumps([emergency.at, *emergency.by])
        await self._redis.command("HSET", self._redis.keys.emergency, _field(emergency), value)

    async def all(self) -> list[Emergency]:
        """What is to be written down."""
        flat: list[bytes] = await self._redis.command("HGETALL", self._redis.keys.emergency)
        return [_read(field.decode(), value) for field, value in zip(flat[::2], flat[1::2], strict=True)]

    async def get(self, what: str, target: str) -> Emergency | None:
        """One of them, if it is still to be written down."""
        field = f"{what}:{target}"
        value: bytes | None = await self._redis.command("HGET", self._redis.keys.emergency, field)
        return None if value is None else _read(field, value)

    async def forget(self, emergency: Emergency) -> None:
        """It is written down."""
        await self._redis.command("HDEL", self._redis.keys.emergency, _field(emergency))


def _read(field: str, value: bytes) -> Emergency:
    what, _, target = field.partition(":")
    at, kind, actor, address = orjson.loads(value)
    return Emergency(what, target, at, (kind, actor, address))


def _field(emergency: Emergency) -> str:
    return f"{emergency.what}:{emergency.target}"
