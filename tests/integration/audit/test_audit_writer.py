from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from tests.stores import as_owner
from uuid_utils import uuid7

from trunkline.audit.heads import Grown
from trunkline.audit.seed import seed
from trunkline.audit.write import BLOCK_MS, AuditWriter
from trunkline.db import Database, Scope, task_scope
from trunkline.errors import Unavailable
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.audit import EVENT_LINES, AuditEntry, AuditFeed
from trunkline.streams.client import Redis

TENANT = "0198f2a4c0de70008000000000000002"
AT = 1_793_000_000_123
ROOT = SecretStr("a root of at least thirty-two characters")


def event(actor: str = "key_1", **changes: bytes) -> bytes:
    """The lines of an event, some of them changed."""
    known = {
        "member": f"{TENANT}:session-1:{uuid7().hex}".encode(),
        "outcome": b"ok",
        "compute": b"340",
        "answer": b"21",
        "worker": b"worker-1",
        "ended": b"%d" % (AT + 12),
        "accepted": b"%d" % AT,
        "request_id": b"7",
        "seed": seed(actor=actor, pod="api-1", target="add", arguments={"a": 3}, size=90),
    }
    return b"\n".join((known | changes).values())


async def append(redis: Redis, *entries: bytes, lane: int = 3) -> None:
    """Entries of one event each, or what each is given."""
    for lines in entries:
        await redis.command("XADD", redis.keys.audit(lane), "*", "e", lines)
        await redis.command("INCRBY", redis.keys.unwritten(lane), (lines.count(b"\n") + 1) // EVENT_LINES)


async def rows(database: Database) -> list[dict[str, Any]]:
    async with database.transaction(task_scope("audit")) as session:
        found = await session.execute(text("SELECT * FROM audit_events ORDER BY seq"))
        return [dict(row) for row in found.mappings()]


class Watched(AuditFeed):
    """A feed that lets a test wait until so many events are acknowledged, by whichever writer."""

    def __init__(self, redis: Redis, consumer: str = "writer-1", beside: Watched | None = None) -> None:
        super().__init__(redis, consumer)
        self.acknowledged: asyncio.Semaphore = beside.acknowledged if beside else asyncio.Semaphore(0)

    async def ack(self, entries: Sequence[AuditEntry]) -> None:
        await super().ack(entries)
        for _ in entries:
            self.acknowledged.release()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            for _ in range(count):
                await self.acknowledged.acquire()


@contextlib.asynccontextmanager
async def writing(feed: Any, database: Any, metrics: Metrics | None = None) -> AsyncIterator[AuditWriter]:
    writer = AuditWriter(feed, database, metrics or Metrics("worker"), ROOT, linger=0.01)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        await asyncio.wait_for(writer.stop(), 10)
        await asyncio.wait_for(task, 1)


@contextlib.asynccontextmanager
async def reading(redis: Redis, consumer: str = "writer-1", beside: Watched | None = None) -> AsyncIterator[Watched]:
    feed = Watched(redis, consumer, beside)
    yield feed
    await feed.aclose()


async def test_an_event_becomes_a_row_with_all_that_is_known(redis, database):
    await append(redis, event(member=f"{TENANT}:session-1:0198f2a4c0de70008000000000000001".encode()))
    async with reading(redis) as feed, writing(feed, database):
        await feed.until(1)
    (row,) = await rows(database)
    assert row["occurred_at"].timestamp() == pytest.approx(AT / 1000, abs=1e-6)
    assert (row["id"].hex, row["tenant_id"].hex) == ("0198f2a4c0de70008000000000000001", TENANT)
    assert (row["actor"], row["action"], row["target"]) == ("key_1", "tools/call", "add")
    assert (row["session_id"], row["request_id"], row["outcome"]) == ("session-1", "7", "ok")
    assert (row["duration_ms"], row["api_pod"], row["worker_pod"]) == (12.0, "api-1", "worker-1")
    assert (row["compute_us"], row["bytes_in"], row["bytes_out"]) == (340, 90, 21)
    assert len(row["arguments_hash"]) == 64


async def test_a_caller_without_key_has_no_actor(redis, database):
    await append(redis, event(actor=""))
    async with reading(redis) as feed, writing(feed, database):
        await feed.until(1)
    (row,) = await rows(database)
    assert row["actor"] is None


async def test_written_events_leave_redis(redis, database):
    metrics = Metrics("worker")
    async with reading(redis) as feed:
        async with writing(feed, database, metrics):
            for lane in (0, 5, 15):
                await append(redis, event(), event(), lane=lane)
            await feed.until(6)
        assert await feed.backlog() == 0
    assert metrics.audit_written_total.value == 6


async def test_more_than_a_batch_is_written_whole(redis, database):
    await append(redis, *(event() for _ in range(1_100)))
    async with reading(redis) as feed, writing(feed, database):
        await feed.until(1_100)
    assert len(await rows(database)) == 1_100


async def test_events_that_share_an_entry_are_a_row_each(redis, database):
    metrics = Metrics("worker")
    shared = b"\n".join([event(), event(outcome=b"\xff"), event(outcome=b"error")])
    await append(redis, shared, event())
    async with reading(redis) as feed:
        async with writing(feed, database, metrics):
            await feed.until(2)
        assert await feed.backlog() == 0
    assert sorted(row["outcome"] for row in await rows(database)) == ["error", "ok", "ok"]
    assert metrics.audit_set_aside_total.value == 1


class Forgetful(Watched):
    """A feed that loses the first acknowledgement and gives the same entries again, as after a crash."""

    lost: Sequence[AuditEntry] = ()
    crashed = False

    async def read(self, limit: int, block_ms: int) -> list[AuditEntry]:
        again, self.lost = list(self.lost), ()
        return again or await super().read(limit, block_ms)

    async def ack(self, entries: Sequence[AuditEntry]) -> None:
        if not self.crashed:
            self.crashed, self.lost = True, entries
            return
        await super().ack(entries)


async def test_an_event_read_twice_is_one_row(redis, database):
    await append(redis, event(), event())
    feed = Forgetful(redis)
    async with writing(feed, database):
        await feed.until(2)
    assert feed.crashed
    assert await feed.backlog() == 0
    assert len(await rows(database)) == 2
    await feed.aclose()


async def test_two_writers_share_the_work_and_write_each_event_once(redis, database):
    first, second = Metrics("worker"), Metrics("worker")
    async with reading(redis, "a") as feed, reading(redis, "b", beside=feed) as other:
        async with writing(feed, database, first), writing(other, database, second):
            for number in range(300):
                await append(redis, event(), lane=number % 16)
            await feed.until(300)
        assert await feed.backlog() == 0
    assert len(await rows(database)) == 300
    assert first.audit_written_total.value + second.audit_written_total.value == 300


@pytest.mark.parametrize(
    "broken",
    [
        event(seed=b"{"),
        event(seed=b""),
        event(seed=b'"\\u0000"'),
        event(seed=b'["key_1","add","api-1","?",90]'),
        event(seed=b'["key_1","add","api-1"]'),
        event(compute=b"long"),
        event(answer=b"-"),
        event(member=b"acme:session-1:0198f2a4c0de70008000000000000001"),
        event(member=b"other"),
        event(ended=b"soon"),
        event(outcome=b"\xff"),
        event(worker=b"\x00"),
        b"other",
    ],
)
async def test_an_entry_that_is_no_event_is_set_aside_and_holds_nothing_up(redis, database, broken):
    metrics = Metrics("worker")
    await append(redis, event(), broken, event(), event())
    async with reading(redis) as feed:
        async with writing(feed, database, metrics):
            await feed.until(4)
        assert await feed.backlog() == 0
    assert metrics.audit_set_aside_total.value == 1
    assert len(await rows(database)) == 3


async def test_what_is_no_event_takes_none_of_its_entry_with_it(redis, database):
    metrics = Metrics("worker")
    lines = [event(), event(member=b"other"), event(worker=b"\0"), event()]
    await append(redis, b"\n".join(lines))
    async with reading(redis) as feed:
        async with writing(feed, database, metrics):
            await feed.until(1)
        assert await feed.backlog() == 0
    assert metrics.audit_set_aside_total.value == 2
    assert [row["seq"] for row in await rows(database)] == [1, 2]


async def test_whoever_follows_hears_which_chains_have_grown(redis, database):
    heard: list[dict[str, int]] = []

    async def grew(grown: Sequence[Grown]) -> Collection[str]:
        heard.append({end.tenant: end.seq for _, end in grown})
        return ()

    other = "0198f2a4c0de70008000000000000003"
    await append(redis, event(), event(member=f"{other}:s:{uuid7().hex}".encode()), event())
    async with reading(redis) as feed:
        writer = AuditWriter(feed, database, Metrics("worker"), ROOT, grew=grew, linger=0.01)
        task = asyncio.create_task(writer.run())
        await feed.until(3)
        await asyncio.wait_for(writer.stop(), 10)
        await task
    assert heard == [{TENANT: 2, other: 1}]


async def test_what_a_quota_tells_is_an_event_that_is_no_call(redis, database):
    told = b'{"action":"quota.soft","target":"calls","actor":"","detail":{"soft":10,"used":11,"month":"2026-11"}}'
    await append(redis, event(member=f"{TENANT}::{uuid7().hex}".encode(), seed=told, worker=b"", ended=b"%d" % AT))
    async with reading(redis) as feed, writing(feed, database):
        await feed.until(1)
    (row,) = await rows(database)
    assert (row["action"], row["target"], row["actor_kind"], row["actor"]) == ("quota.soft", "calls", "system", None)
    assert row["detail"] == {"soft": 10, "used": 11, "month": "2026-11"}
    async with database.transaction(task_scope("audit")) as session:
        assert await session.scalar(text("SELECT count(*) FROM usage_daily")) == 0


class Tried:
    """A database that lets a test wait until so many transactions were tried."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tries = asyncio.Semaphore(0)

    @contextlib.asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[Any]:
        self._tries.release()
        async with self._database.transaction(scope) as session:
            yield session

    async def times(self, count: int) -> None:
        async with asyncio.timeout(10):
            for _ in range(count):
                await self._tries.acquire()


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


async def test_a_feed_that_is_away_is_not_asked_without_pause(database):
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

    async with writing(Away(), database):
        for _ in range(100):
            await asyncio.sleep(0)
    assert asked <= 3


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
