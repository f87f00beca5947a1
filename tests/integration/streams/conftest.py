"""A lane, a session and their two sides, on real Redis."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import uuid_utils

from trunkline.envelope import Call
from trunkline.settings import Settings, load_settings
from trunkline.streams.bounds import Bounds
from trunkline.streams.calls import Calls, Message
from trunkline.streams.client import Redis
from trunkline.streams.lanes import LaneReader, create_groups
from trunkline.streams.outbox import Outbox
from trunkline.streams.sessions import Owner, Sessions, new_session_id, read_entries

PLENTY = Bounds.of(rate=1e6, burst=1_000_000, in_flight=1000)


@pytest.fixture
def redis_settings(redis_url: str) -> Settings:
    """Settings without a database: the wire needs none."""
    return load_settings(
        environment="dev",
        redis_url=redis_url,
        redis_prefix=f"test-{secrets.token_hex(6)}:",
        lanes=4,
        outbox_max_messages=20,
        outbox_max_bytes=10_000,
    )


@pytest.fixture
async def redis(redis_settings: Settings) -> AsyncIterator[Redis]:
    connected = await Redis.connect(redis_settings, "test")
    yield connected
    await connected.aclose()


@dataclass
class Wire:
    """Both ends of the wire for one tenant's session."""

    redis: Redis
    owner: Owner
    session: str
    sessions: Sessions
    calls: Calls
    outbox: Outbox
    reader: LaneReader

    async def accept(
        self, body: bytes = b"{}", *, request_id: bytes = b"1", seed: bytes = b"", bounds: Bounds = PLENTY
    ) -> str:
        call = uuid_utils.uuid7().hex
        await self.calls.accept(self.owner, Message(call, self.session, request_id, body, seed), bounds)
        return call

    async def claim(self, free: int = 64) -> list[Call]:
        return await self.reader.claim(free, 500)

    async def sent(self) -> list[tuple[int, bytes]]:
        outbox = self.redis.keys.stream(self.owner.tenant, self.session)[1]
        entries = read_entries(await self.redis.command("XRANGE", outbox, "-", "+"))
        return [(each.offset, each.body) for each in entries]

    async def in_flight(self) -> int:
        return int(await self.redis.command("HGET", self.redis.keys.tenant(self.owner.tenant).usage, "inflight") or 0)

    async def pending(self) -> int:
        fields = await self.redis.command("HKEYS", self.redis.keys.stream(self.owner.tenant, self.session)[0])
        return sum(field.startswith(b"p:") for field in fields)


@pytest.fixture
async def wire(redis: Redis) -> AsyncIterator[Wire]:
    owner = Owner(uuid_utils.uuid7().hex, "key_one")
    sessions = Sessions(redis, "pod-a")
    session = new_session_id()
    await sessions.open(owner, session, b"{}", 10)
    calls = Calls(redis)
    await create_groups(redis)
    connection = await redis.dial("lanes")
    yield Wire(redis, owner, session, sessions, calls, Outbox(redis, "w1"), LaneReader(connection, redis, "w1"))
    connection.close()
    await connection.lost
