from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from tests.integration.audit.logs import Log, intruder
from uuid_utils import uuid7

from trunkline.audit.anchors import Anchors
from trunkline.audit.by import PLATFORM
from trunkline.audit.chain import Event, microseconds
from trunkline.audit.export import Export
from trunkline.audit.retention import Retention
from trunkline.audit.verify import verify_copy
from trunkline.db import task_scope
from trunkline.streams.client import Redis

OTHER = uuid7().hex


def keeping(log: Log, redis: Redis, months: int) -> Retention:
    settings = log.settings.model_copy(update={"audit_retention_months": months})
    return Retention(settings, log.database, redis)


async def month_partition(log: Log, year: int, month: int) -> None:
    """A partition for a month of the past, as it was made when that month came."""
    opens, closes = datetime(year, month, 1, tzinfo=UTC), datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    name = f"audit_events_{year}_{month:02d}"
    async with intruder(log.settings.database_url) as connection:
        await connection.execute(
            f"CREATE TABLE {name} PARTITION OF audit_events FOR VALUES FROM ('{opens}') TO ('{closes}');"
            f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; ALTER TABLE {name} FORCE ROW LEVEL SECURITY;"
            f"CREATE POLICY owner_moves ON {name} TO CURRENT_USER USING (true)"
        )


async def append_at(log: Log, time: datetime, events: Sequence[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    """Append events as if it were another time."""
    real = log.heads._read

    async def at_that_time(session: Any, tenants: list[str]) -> Any:
        heads, _ = await real(session, tenants)
        return heads, microseconds(time)

    with monkeypatch.context() as patched:
        patched.setattr(log.heads, "_read", at_that_time)
        await log.append(events)


@pytest.fixture
async def old_log(log: Log, monkeypatch: pytest.MonkeyPatch) -> Log:
    """Two tenants with entries in March and April 2025, and now."""
    for month in (3, 4):
        await month_partition(log, 2025, month)
        time = datetime(2025, month, 20, tzinfo=UTC)
        events = [log.happened(occurred_us=microseconds(time)) for _ in range(5)]
        events += [log.happened(occurred_us=microseconds(time), tenant=OTHER) for _ in range(month - 2)]
        await append_at(log, time, events, monkeypatch)
    await log.append([log.happened(), log.happened()])
    return log


async def partitions(log: Log) -> set[str]:
    query = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_events'::regclass")
    async with log.database.transaction(task_scope("audit")) as session:
        return set(await session.scalars(query))


async def test_old_months_go_and_what_remains_still_verifies(old_log: Log, redis: Redis):
    assert await keeping(old_log, redis, 12).run_once() == [date(2025, 3, 1), date(2025, 4, 1)]
    assert not {"audit_events_2025_03", "audit_events_2025_04"} & await partitions(old_log)
    assert [row["seq"] for row in await old_log.rows()] == [11, 12]
    for tenant in (old_log.tenant, OTHER, PLATFORM):
        report = await old_log.verify(tenant)
        assert report.intact, report.findings
    await old_log.append([old_log.happened(), old_log.happened(tenant=OTHER)])
    assert (await old_log.verify()).entries == 3
    assert (await old_log.verify(OTHER)).entries == 1
    assert [row["target"] for row in await old_log.rows(PLATFORM)] == ["2025-03", "2025-04"]


async def test_usage_outlives_the_entries(old_log: Log, redis: Redis):
    before = await old_log.rows(table="usage_daily")
    await keeping(old_log, redis, 12).run_once()
    assert await old_log.rows(table="usage_daily") == before
    assert sum(row["calls"] for row in before) == 12


async def test_without_a_limit_everything_stays(old_log: Log, redis: Redis):
    assert await keeping(old_log, redis, 0).run_once() == []
    assert await keeping(old_log, redis, 1_000).run_once() == []
    assert len(await old_log.rows()) == 12


async def test_a_month_is_dropped_only_when_so_many_full_ones_have_passed(old_log: Log, redis: Redis):
    retention = keeping(old_log, redis, 3)
    assert await retention.run_once(datetime(2025, 6, 30, tzinfo=UTC)) == []
    assert await retention.run_once(datetime(2025, 7, 1, tzinfo=UTC)) == [date(2025, 3, 1)]


async def test_a_copy_that_begins_after_what_was_dropped_verifies(old_log: Log, redis: Redis):
    await keeping(old_log, redis, 12).run_once()
    export = Export(old_log.database, old_log.settings.secret_key)
    lines = b"".join([part async for part in export.jsonl(old_log.tenant)]).splitlines()
    assert len(lines) == 3
    assert verify_copy(lines, old_log.signers).intact


async def test_a_beginning_that_somebody_else_dropped_is_found(old_log: Log):
    await old_log.tamper("DROP TABLE audit_events_2025_03")
    assert {finding.kind for finding in (await old_log.verify()).findings} == {"gap"}


@pytest.mark.parametrize(
    ("month", "keep", "refusal"),
    [
        (date(2025, 3, 1), 0, "at least 1 month"),
        (date(2025, 3, 1), 12, "without a checkpoint"),
        (date(2100, 1, 1), 1, "full months back"),
    ],
)
async def test_the_platform_cannot_drop_what_must_stay(old_log: Log, month: date, keep: int, refusal: str):
    with pytest.raises(DBAPIError, match=refusal):
        async with old_log.database.transaction(task_scope("audit")) as session:
            await session.execute(text("SELECT drop_audit_partition(:month, :keep)"), {"month": month, "keep": keep})
    assert len(await old_log.rows()) == 12


async def test_heads_are_kept_in_redis_and_one_that_is_gone_is_missed(old_log: Log, redis: Redis):
    await keeping(old_log, redis, 0).anchor()
    anchor = await Anchors(redis, old_log.sealer).get(old_log.tenant)
    assert anchor is not None
    assert anchor.seq == 12
    assert (await old_log.verify(anchor=anchor)).intact
    await old_log.tamper("DELETE FROM audit_heads WHERE mine", "DELETE FROM audit_events WHERE mine")
    assert {finding.kind for finding in (await old_log.verify(anchor=anchor)).findings} == {"head", "cut off"}
