"""Redis with Sentinels: a replica takes over, and every process finds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from faults import failover
from faults.sentinels import GuardedRedis
from tests.faults.conftest import Small
from tests.faults.outages import until
from tests.stores import open_directory

from trunkline.settings import Settings, load_settings
from trunkline.streams.client import Redis
from trunkline.streams.connection import ConnectionLost
from trunkline.streams.subscriber import Subscriber

PATIENCE = 40.0


@pytest.fixture
async def guarded() -> AsyncIterator[GuardedRedis]:
    """A primary, a replica and three Sentinels of the test's own."""
    with open_directory() as directory:
        made = GuardedRedis(directory)
        try:
            await made.start()
            await made.watched()
            yield made
        finally:
            made.end()


@pytest.fixture
def guarded_settings(guarded: GuardedRedis) -> Settings:
    return load_settings(environment="dev", lanes=4, **guarded.settings)


async def test_a_primary_that_hangs_and_is_replaced_is_left_by_every_connection_even_when_it_lives_on(
    guarded: GuardedRedis, guarded_settings: Settings
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listening = asyncio.Event()

    async def ready() -> None:
        listening.set()

    redis = await Redis.connect(guarded_settings, "test")
    subscriber = Subscriber(redis, ["news"], lambda _, payload: heard.put_nowait(payload), ready)
    following = asyncio.create_task(subscriber.run())
    try:
        async with asyncio.timeout(PATIENCE):
            await listening.wait()
            old = await guarded.primary()
            reader = await redis.dial("lanes", timeout=60)  # which would wait much longer by itself
            blocked = reader.send("BLPOP", "nothing", 30)
            old.stop()
            await guarded.taken_over_from(old)
            old.go_on()  # and takes writes: nobody has told it yet
            with pytest.raises(ConnectionLost):
                await blocked
            await redis.command("SET", "written", "after", patience=10)
            assert await guarded.ask(guarded.besides(old), "GET", "written") == b"after"

            async def told() -> bool:
                await redis.command("PUBLISH", "news", "again")
                return not heard.empty()

            await until(told)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await redis.aclose()


async def test_with_wait_a_failover_loses_no_accepted_call(small: Small) -> None:
    await small(failover.redis_failover)


async def test_without_wait_a_failover_leaves_no_call_without_an_answer(small: Small) -> None:
    await small(failover.redis_failover_unconfirmed)
