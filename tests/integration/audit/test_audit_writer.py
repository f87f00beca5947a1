"""What becomes of audit events: a row each, once; what is none holds nothing up."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest
from sqlalchemy import text
from tests.integration.audit.writers import AT, ROOT, TENANT, Watched, append, event, reading, rows, writing
from uuid_utils import uuid7

from trunkline.audit.heads import Grown
from trunkline.audit.write import AuditWriter
from trunkline.db import task_scope
from trunkline.metrics import Metrics
from trunkline.streams.audit import AuditEntry


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
