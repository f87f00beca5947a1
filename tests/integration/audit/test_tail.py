from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest
from tests.integration.audit.logs import Log
from uuid_utils import uuid7

from trunkline.audit import tail as tails
from trunkline.audit.chain import Entry
from trunkline.audit.tail import MOST_TAILS, Tail
from trunkline.errors import TooManyRequests, Unavailable
from trunkline.streams.audit_tail import log_grew
from trunkline.streams.client import Redis


@pytest.fixture
async def tail(redis: Redis, log: Log) -> AsyncIterator[Tail]:
    opened = Tail(redis, log.database)
    yield opened
    await opened.aclose()


async def take(stream: AsyncIterator[Entry | None], count: int) -> list[int]:
    """The numbers of the next entries."""
    seen: list[int] = []
    async with asyncio.timeout(10):
        while len(seen) < count:
            entry = await anext(stream)
            if entry is not None:
                seen.append(entry.seq)
    return seen


async def listened_to(redis: Redis) -> None:
    """Wait until somebody hears of growing logs; each question is a round trip, which is pause enough."""
    async with asyncio.timeout(10):
        while not await redis.command("PUBSUB", "CHANNELS", redis.keys.tail):
            pass


async def test_a_tail_begins_after_a_number_and_leaves_nothing_out(log: Log, tail: Tail):
    await log.fill(250)
    async with aclosing(tail.entries(log.tenant, 10)) as stream:
        assert await take(stream, 240) == list(range(11, 251))


async def test_a_tail_follows_what_is_recorded_from_now_on(log: Log, tail: Tail, redis: Redis):
    await log.fill(3)
    async with aclosing(tail.entries(log.tenant)) as stream:
        following = asyncio.create_task(take(stream, 2))
        await listened_to(redis)
        await log.fill(2)
        await log_grew(redis, [uuid7().hex, log.tenant])
        assert await following == [4, 5]


async def test_what_no_signal_tells_of_comes_all_the_same(log: Log, tail: Tail, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tails, "_LOOK_EVERY", 0.02)
    async with aclosing(tail.entries(log.tenant, 0)) as stream:
        following = asyncio.create_task(take(stream, 1))
        await log.fill(1)
        assert await following == [1]


async def test_a_quiet_log_gives_signs_of_life(log: Log, tail: Tail, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tails, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(tails, "KEEP_ALIVE", 0.02)
    async with aclosing(tail.entries(log.tenant)) as stream, asyncio.timeout(10):
        assert await anext(stream) is None
        assert await anext(stream) is None


async def test_entries_of_other_tenants_are_not_in_it(log: Log, tail: Tail):
    await log.append([log.happened(tenant=uuid7().hex), log.happened()])
    async with aclosing(tail.entries(log.tenant, 0)) as stream:
        async with asyncio.timeout(10):
            entry = await anext(stream)
        assert entry is not None
        assert entry.event.tenant == log.tenant


async def test_a_tenant_has_so_many_tails_and_no_more(log: Log, tail: Tail):
    await log.fill(1)
    async with AsyncExitStack() as stack:
        for _ in range(MOST_TAILS):
            stream = await stack.enter_async_context(aclosing(tail.entries(log.tenant, 0)))
            assert await take(stream, 1) == [1]
        with pytest.raises(TooManyRequests, match="At most 5 tails"):
            await anext(tail.entries(log.tenant, 0))
        other = uuid7().hex
        await log.append([log.happened(tenant=other)])
        async with aclosing(tail.entries(other, 0)) as stream:
            assert await take(stream, 1) == [1]
    async with aclosing(tail.entries(log.tenant, 0)) as stream:
        assert await take(stream, 1) == [1]


async def test_a_pod_that_drains_ends_its_tails_and_gives_no_more(log: Log, tail: Tail):
    await log.fill(1)
    async with aclosing(tail.entries(log.tenant, 0)) as stream, asyncio.timeout(10):
        assert await take(stream, 1) == [1]
        rest = asyncio.create_task(take_all(stream))
        tail.drain()
        assert await rest == []
    with pytest.raises(Unavailable, match="stopping"):
        await anext(tail.entries(log.tenant, 0))


async def take_all(stream: AsyncIterator[Entry | None]) -> list[int]:
    """The numbers of all entries until the end."""
    return [entry.seq async for entry in stream if entry is not None]
