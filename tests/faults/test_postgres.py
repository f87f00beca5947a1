"""What Postgres can suffer: calls go on, commands fail with a sentence, and nothing needs a restart after it.

That it is stopped is tried in `tests/journey/test_postgres_away.py` and `tests/acceptance/test_stores_away.py` and,
under load, by the scenario at the end of this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import httpx2
import pytest
from faults import postgres as scenarios
from faults.proxy import Proxy
from tests.faults.conftest import Small
from tests.faults.outages import HEALING, at_port, proxied, until
from tests.journey.conftest import Platform, platform_on
from tests.sse import Stream, connect, text_of
from tests.stores import TestStores

from trunkline.api.run import ApiProcess
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.worker.run import WorkerProcess

PATIENCE = 20.0
AT_ONCE = 4.5
"""Seconds within which is done what does not wait for Postgres: a whole look at it takes up to 5 s."""

Lets = Callable[[int], Awaitable[None]]


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    port = httpx2.URL(settings.database_url).port
    assert port is not None
    async with proxied(port) as made:
        yield made


@pytest.fixture
async def platform(settings: Settings, proxy: Proxy) -> AsyncIterator[Platform]:
    """A deployment whose pods reach Postgres through the proxy."""
    changes = {"database_url": at_port(settings.database_url, proxy.port), "lanes": 4}
    async with platform_on(settings.model_copy(update=changes)) as made:
        yield made


@pytest.fixture
async def api(platform: Platform) -> str:
    await platform.worker()
    return await platform.api()


@pytest.fixture
def lets_connect(stores: TestStores, settings: Settings) -> Lets:
    """Sets how many connections this test's database takes (-1: any number), and ends those that there are."""
    name = settings.database_url.rpartition("/")[2]

    async def limit(connections: int) -> None:
        admin = await asyncpg.connect(stores.database_url)
        try:
            await admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT {connections}')
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        finally:
            await admin.close()

    return limit


async def state(stream: Stream) -> str:
    return str((await stream.http.get(f"{stream.base}/readyz")).json()["stores"]["postgres"])


async def call(stream: Stream, text: str) -> None:
    async with asyncio.timeout(AT_ONCE):
        assert text_of(await stream.call("echo", {"text": text})) == text


async def all_audited(settings: Settings, calls: int) -> None:
    """Wait until there is a row for each call."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute("SET trunkline.scope = 'audit'")

        async def written() -> bool:
            return await connection.fetchval("SELECT count(*) FROM audit_events WHERE action = 'tools/call'") == calls

        await until(written)
    finally:
        await connection.close()


async def test_calls_do_not_notice_a_slow_postgres(
    platform: Platform, settings: Settings, proxy: Proxy, api: str
) -> None:
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        proxy.delay(1.0)
        for number in range(5):
            await call(stream, str(number))
        async with connect(api, key=platform.key) as another:
            await another.initialize()
            await call(another, "another")
        proxy.heal()
        async with asyncio.timeout(HEALING):
            await all_audited(settings, 6)


async def test_calls_go_on_while_postgres_has_no_connection_left(
    platform: Platform, settings: Settings, api: str, lets_connect: Lets
) -> None:
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        await lets_connect(0)
        for number in range(5):
            await call(stream, str(number))
        with pytest.raises(Unavailable, match="try again"):
            await platform.keys.issue("demo")
        assert await state(stream) == "away"
        fresh = await platform.api()  # a pod that comes meanwhile finds what it needs in Redis
        async with connect(fresh, key=platform.key) as another:
            await another.initialize()
            await call(another, "another")

        await lets_connect(-1)
        async with asyncio.timeout(HEALING):
            await all_audited(settings, 6)
            await platform.keys.issue("demo")

            async def is_back() -> bool:
                return await state(stream) == "ok"

            await until(is_back)


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_calls_do_not_wait_for_a_postgres_that_answers_nothing(
    platform: Platform,
    settings: Settings,
    proxy: Proxy,
    api: str,
    direction: str,
) -> None:
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        await call(stream, "before")
        proxy.stall(direction)  # type: ignore[arg-type]
        await call(stream, "meanwhile")
        # What was learned long ago: it would be looked up in Postgres first, by whoever asks.
        for kind in (ApiProcess, WorkerProcess):
            for entry in platform.process(kind)._directory._entries.values():
                entry.fresh_until = entry.patient_until = entry.confirmed_at = float("-inf")
        await call(stream, "after long")
        async with asyncio.timeout(AT_ONCE):
            assert await state(stream) == "away"

        proxy.heal()
        async with asyncio.timeout(HEALING):
            await all_audited(settings, 3)

            async def is_back() -> bool:
                return await state(stream) == "ok"

            await until(is_back)


async def test_revocations_and_suspensions_are_in_force_at_once_with_a_postgres_that_answers_nothing(
    platform: Platform, proxy: Proxy, api: str
) -> None:
    token, record = await platform.keys.issue("demo")
    pods = [api, await platform.api()]
    async with connect(pods[0], key=token) as one, connect(pods[1], key=platform.key) as two:
        proxy.stall("down")
        for number in range(2):
            for entry in platform.process(ApiProcess, number)._directory._entries.values():
                entry.confirmed_at = float("-inf")
        revoking = asyncio.create_task(platform.keys.revoke_first(record.id))
        async with asyncio.timeout(AT_ONCE):
            assert "key revoked" in await one.ended()
        suspending = asyncio.create_task(platform.tenants.suspend_first("demo"))
        async with asyncio.timeout(AT_ONCE):
            assert "tenant changed" in await two.ended()
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(revoking, suspending) == [None, None]
        proxy.heal()


async def test_a_name_that_nobody_knows_is_refused_in_time_by_a_postgres_that_answers_nothing(
    platform: Platform, proxy: Proxy, api: str
) -> None:
    proxy.stall("down")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionRefusedError) as refused:
            async with connect(api, "/t/nobody/sse", key=platform.key):
                pass
    assert refused.value.args[0] == 503
    proxy.heal()


async def test_no_call_fails_while_postgres_is_away_and_all_are_audited_afterwards(small: Small) -> None:
    await small(scenarios.postgres_away)
