from __future__ import annotations

import asyncio
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from tests.integration.audit.logs import Log
from uuid_utils import uuid7

from trunkline.audit.chain import microseconds
from trunkline.audit.usage import UsageReader, Used

DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)


async def use(log: Log) -> None:
    for day in range(3):
        at = microseconds(DAY + timedelta(days=day))
        wanted = [("key_1", "add"), ("key_1", "echo"), ("key_2", "add"), (None, "add")]
        await log.append([log.happened(occurred_us=at, actor=actor, target=tool) for actor, tool in wanted])


async def test_usage_is_told_apart_as_it_is_asked_for(shared_log: Log):
    await use(shared_log)
    reader = UsageReader(shared_log.database)
    whole = await reader.read(shared_log.tenant, date(2026, 11, 1), date(2026, 11, 30))
    assert len(whole.rows) == 12
    assert whole.total == Used(12, 0, 12 * 340, 12 * 100, 12 * 200)
    by_key = await reader.read(shared_log.tenant, date(2026, 11, 1), date(2026, 11, 30), frozenset({"key"}))
    assert [(row.key_id, row.used.calls) for row in by_key.rows] == [("", 3), ("key_1", 6), ("key_2", 3)]
    assert {row.day for row in by_key.rows} == {None}
    total = await reader.read(shared_log.tenant, date(2026, 11, 1), date(2026, 11, 30), frozenset())
    assert [row.used for row in total.rows] == [whole.total]


async def test_days_are_counted_from_the_first_to_the_last(shared_log: Log):
    await use(shared_log)
    reader = UsageReader(shared_log.database)
    middle = await reader.read(shared_log.tenant, date(2026, 11, 21), date(2026, 11, 21), frozenset({"day"}))
    assert [(row.day, row.used.calls) for row in middle.rows] == [(date(2026, 11, 21), 4)]
    nothing = await reader.read(shared_log.tenant, date(2026, 12, 1), date(2026, 12, 31), frozenset())
    assert (nothing.rows, nothing.total) == ([], Used())


async def test_nobody_sees_what_another_tenant_uses_but_operators(shared_log: Log):
    await use(shared_log)
    reader = UsageReader(shared_log.database)
    other = await reader.read(uuid7().hex, date(2026, 1, 1), date(2026, 12, 31))
    assert other.rows == []
    assert (await reader.totals())[shared_log.tenant].calls == 12


async def test_sums_are_those_of_the_entries(shared_log: Log):
    events = [
        shared_log.happened(outcome="ok" if n % 3 else "error", compute_us=n, bytes_in=n * 2) for n in range(70)
    ]
    await shared_log.append(events[:40])
    await shared_log.append(events[20:])
    rows = await shared_log.rows()
    table = await UsageReader(shared_log.database).read(shared_log.tenant, date(2020, 1, 1), date(2100, 1, 1))
    assert table.total == Used(
        calls=len(rows),
        errors=sum(row["outcome"] != "ok" for row in rows),
        compute_us=sum(row["compute_us"] for row in rows),
        bytes_in=sum(row["bytes_in"] for row in rows),
        bytes_out=sum(row["bytes_out"] for row in rows),
    )
    assert len(rows) == 70


@pytest.mark.parametrize("seed", range(3))
async def test_sums_are_those_of_the_entries_however_often_and_in_whatever_batches_events_are_read(
    shared_log: Log, seed: int
):
    chance = random.Random(seed)
    tenants = [uuid7().hex for _ in range(3)]

    def some() -> dict[str, Any]:
        return {
            "tenant": chance.choice(tenants),
            "occurred_us": microseconds(DAY) + chance.randrange(3 * 86_400_000_000),
            "actor": chance.choice(["key_1", "key_2", None]),
            "target": chance.choice(["add", "echo"]),
            "action": chance.choice(["tools/call", "tools/call", "key.issue"]),
            "outcome": chance.choice(["ok", "error"]),
            "compute_us": chance.randrange(1_000_000),
        }

    events = [shared_log.happened(**some()) for _ in range(150)]
    batches = [chance.sample(events, chance.randrange(1, 80)) for _ in range(8)] + [events]
    async with asyncio.timeout(20):
        await asyncio.gather(*(shared_log.append(batch) for batch in batches))
    for tenant in tenants:
        expected: dict[tuple[date, str, str], list[int]] = {}
        for row in await shared_log.rows(tenant):
            if row["action"] == "tools/call":
                key = (row["occurred_at"].astimezone(UTC).date(), row["actor"] or "", row["target"])
                sums = expected.setdefault(key, [0, 0, 0, 0, 0])
                added = (1, row["outcome"] != "ok", row["compute_us"], row["bytes_in"], row["bytes_out"])
                sums[:] = map(sum, zip(sums, added, strict=True))
        table = await UsageReader(shared_log.database).read(tenant, date(2026, 11, 1), date(2026, 12, 31))
        assert {(row.day, row.key_id, row.tool): list(row.used) for row in table.rows} == expected
        assert len(await shared_log.rows(tenant)) == sum(event.tenant == tenant for event in events)
        assert (await shared_log.verify(tenant)).intact
