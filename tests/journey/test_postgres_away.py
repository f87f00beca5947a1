"""Postgres being away stops no call, and loses no audit event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from tests.journey.conftest import Platform, eventually
from tests.sse import connect, text_of
from tests.stores import TestStores, as_owner

from trunkline.errors import Unavailable

Switch = Callable[[bool], Awaitable[None]]


@pytest.fixture
def reachable(stores: TestStores, database_url: str) -> Switch:
    """Lets this test's database take connections, or takes it away and all connections to it."""
    name = database_url.rpartition("/")[2]

    async def switch(on: bool) -> None:
        admin = await asyncpg.connect(stores.database_url)
        try:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {"true" if on else "false"}')
            if not on:
                await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        finally:
            await admin.close()

    return switch


async def test_calls_go_on_while_postgres_is_away_and_their_audit_events_arrive_when_it_is_back(
    platform: Platform, reachable: Switch
) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as before:
        await before.initialize()
        await reachable(False)
        assert text_of(await before.call("echo", {"text": "goes on"})) == "goes on"
        ready = (await before.http.get(f"{api}/readyz")).json()
        assert ready["stores"] == {"redis": "ok", "postgres": "away"}
        with pytest.raises(Unavailable):
            await platform.keys.issue("demo")

        # Pods that were not there before find what they need in Redis.
        fresh = await platform.api()
        await platform.worker()
        async with connect(fresh, key=platform.key) as after:
            await after.initialize()
            assert text_of(await after.call("echo", {"text": "here too"})) == "here too"
        async with connect(fresh, key=platform.key, last_event_id=before.last_id) as resumed:
            assert text_of(await resumed.call("add", {"a": 3, "b": 5})) == "8"

    await reachable(True)

    async def written() -> list[str]:
        query = "SELECT target FROM audit_events WHERE action = 'tools/call' ORDER BY occurred_at"
        return [row["target"] for row in await as_owner(platform.settings.database_url, query)]

    async def all_written() -> bool:
        return len(await written()) == 3

    await eventually(all_written)
    assert await written() == ["echo", "echo", "add"]


async def test_what_nobody_knows_is_refused_as_unavailable_while_postgres_is_away(
    platform: Platform, reachable: Switch
) -> None:
    api = await platform.api()
    await reachable(False)
    with pytest.raises(ConnectionRefusedError) as refused:
        async with connect(api, "/t/nobody/sse", key=platform.key):
            pass
    assert refused.value.args[0] == 503
    await reachable(True)
