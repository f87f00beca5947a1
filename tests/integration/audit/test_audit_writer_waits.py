"""Writers of audit events that wait for a store, for the schema, or to be stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from tests.integration.audit.writers import ROOT, Tried, Watched, append, event, reading, rows, writing
from tests.stores import as_owner

from trunkline.audit.write import BLOCK_MS, AuditWriter
from trunkline.db import Scope, task_scope
from trunkline.errors import Unavailable
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.audit import AuditEntry


class Outage:
    """Takes the test's own database away from everybody, and gives it back."""

    def __init__(self, stores: Any, database_url: str) -> None:
        self._admin_url = stores.database_url
        self._name = database_url.rsplit("/", 1)[1].partition("?")[0]

    async def begin(self) -> None:
        await self._allow(False)

    async def end(self) -> None:
        await self._allow(True)

    async def _allow(self, connections: bool) -> None:
        admin = await asyncpg.connect(self._admin_url)
        await admin.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS {connections}')
        if not connections:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", self._name
            )
        await admin.close()


@pytest.fixture
def outage(stores: Any, settings: Settings) -> Outage:
    return Outage(stores, settings.database_url)


async def test_nothing_is_lost_while_postgres_is_away_and_one_line_says_so(redis, database, outage, capsys):
    tried = Tried(database)
    async with reading(redis) as feed:
        async with writing(feed, tried):
            await append(redis, event())
            await feed.until(1)
            await outage.begin()
            await append(redis, event(), event())
            await tried.times(6)
            assert await feed.backlog() == 2
            await append(redis, event())
            await outage.end()
            await feed.until(3)
        assert await feed.backlog() == 0
    assert len(await rows(database)) == 4
    said = capsys.readouterr().out
    assert said.count("audit events wait for Postgres") == 1
    assert said.count("audit events are written again") == 1


async def test_a_schema_that_is_not_there_yet_is_waited_for(redis, database, settings):
    await as_owner(settings.database_url, "ALTER TABLE audit_events RENAME TO audit_events_later")
    metrics, tried = Metrics("worker"), Tried(database)
    await append(redis, event())
    async with reading(redis) as feed, writing(feed, tried, metrics):
        await tried.times(2)
        await as_owner(settings.database_url, "ALTER TABLE audit_events_later RENAME TO audit_events")
        await feed.until(1)
    assert metrics.audit_set_aside_total.value == 0


async def test_stop_writes_what_waits_already(redis, database):
    async with reading(redis) as feed, writing(feed, database) as writer:
        await append(redis, event())
        await feed.until(1)
        await append(redis, *(event() for _ in range(20)))
        await writer.stop()
        assert await feed.backlog() == 0
    assert len(await rows(database)) == 21


class Patient(Watched):
    """A feed whose reads wait until their connection is given up, where the writer's wait for a moment."""

    async def read(self, limit: int, block_ms: int) -> list[AuditEntry]:
        return await super().read(limit, 30_000 if block_ms == BLOCK_MS else block_ms)


async def test_stop_does_not_wait_for_events_that_may_come(redis, database):
    feed = Patient(redis)
    writer = AuditWriter(feed, database, Metrics("worker"), ROOT, drain=60)
    task = asyncio.create_task(writer.run())
    async with asyncio.timeout(20):
        while b" cmd=xreadgroup " not in await redis.command("CLIENT", "LIST", "ID", feed._id or 1):
            pass
        connection = feed._id
        await writer.stop()
        await task
    assert feed._id == connection, "it came back, and was not given up"
    await feed.aclose()


async def test_stop_does_not_wait_for_a_postgres_that_is_away(redis, database, outage):
    await outage.begin()
    tried = Tried(database)
    await append(redis, event())
    async with reading(redis) as feed:
        async with writing(feed, tried) as writer:
            await tried.times(1)
            await asyncio.wait_for(writer.stop(), 4)
        assert await feed.backlog() == 1
    await outage.end()


async def test_stop_of_a_writer_that_never_ran_returns(redis, database):
    async with reading(redis) as feed:
        await asyncio.wait_for(AuditWriter(feed, database, Metrics("worker"), ROOT).stop(), 1)


class Stuck:
    """A database whose transactions never end."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    @contextlib.asynccontextmanager
    async def transaction(self, _scope: Scope) -> AsyncIterator[Any]:
        self.entered.set()
        await asyncio.Event().wait()
        yield None


async def test_stop_is_bounded_even_when_postgres_answers_nothing(redis):
    stuck = Stuck()
    await append(redis, event())
    async with reading(redis) as feed:
        writer = AuditWriter(feed, stuck, Metrics("worker"), ROOT, drain=0.05)
        task = asyncio.create_task(writer.run())
        await asyncio.wait_for(stuck.entered.wait(), 10)
        await asyncio.wait_for(writer.stop(), 2)
        await asyncio.wait_for(task, 1)


async def test_a_feed_that_is_away_is_not_asked_without_pause(database, monkeypatch):
    asked = 0

    class Away:
        async def read(self, limit: int, block_ms: int) -> list[AuditEntry]:
            nonlocal asked
            asked += 1
            raise Unavailable("Redis is away; try again shortly.")

        async def hurry(self) -> None:
            """It never waits."""

        async def ack(self, entries: Sequence[AuditEntry]) -> None:
            raise AssertionError("nothing was read")

    rest, paused = AuditWriter._rest, asyncio.Queue[float]()

    async def rested(writer: AuditWriter, seconds: float) -> None:
        paused.put_nowait(seconds)
        await rest(writer, seconds)

    monkeypatch.setattr(AuditWriter, "_rest", rested)
    async with writing(Away(), database):
        assert await asyncio.wait_for(paused.get(), 10) >= BLOCK_MS / 2000
        assert asked == 1


async def test_whoever_reads_the_log_for_long_keeps_nobody_from_writing_while_a_partition_is_missing(
    redis, database, settings
):
    partitions = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_events'::regclass"
    newest = sorted(name for (name,) in await as_owner(settings.database_url, partitions))[-2]
    await as_owner(settings.database_url, f"DROP TABLE {newest}")
    async with database.transaction(task_scope("audit")) as reader:
        await reader.execute(text("SELECT count(*) FROM audit_events"))
        await append(redis, event(), event())
        async with asyncio.timeout(10), reading(redis) as feed, writing(feed, database):
            await feed.until(2)
    assert len(await rows(database)) == 2
    assert (newest,) not in await as_owner(settings.database_url, partitions)


async def test_the_coming_months_have_partitions_after_a_start(redis, database, settings):
    partitions = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_events'::regclass"
    for (name,) in await as_owner(settings.database_url, partitions):
        if not name.endswith("default"):
            await as_owner(settings.database_url, f"DROP TABLE {name}")
    await append(redis, event())
    async with reading(redis) as feed, writing(feed, database):
        await feed.until(1)
    assert len(await as_owner(settings.database_url, partitions)) == 4
