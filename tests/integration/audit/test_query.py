from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.integration.audit.logs import Log
from uuid_utils import uuid7

from trunkline.audit import query
from trunkline.audit.chain import Entry, microseconds
from trunkline.audit.query import ALL, Filters, find, page, standing
from trunkline.db import utcnow


async def every(log: Log, filters: Filters = ALL, limit: int = 7) -> list[Entry]:
    """All entries that pages give, one after the other."""
    entries: list[Entry] = []
    before: int | None = None
    while True:
        found = await page(log.database, log.tenant, filters, before, limit)
        assert len(found.entries) <= limit
        entries += found.entries
        if found.next is None:
            return entries
        assert before is None or found.next < before
        before = found.next


async def test_pages_give_each_entry_once_newest_first(shared_log: Log):
    await shared_log.fill(50)
    assert [entry.seq for entry in await every(shared_log)] == list(range(50, 0, -1))


async def test_entries_that_come_meanwhile_shift_no_page(shared_log: Log):
    await shared_log.fill(10)
    first = await page(shared_log.database, shared_log.tenant, limit=5)
    await shared_log.fill(3)
    second = await page(shared_log.database, shared_log.tenant, before=first.next, limit=5)
    assert [entry.seq for entry in (*first.entries, *second.entries)] == list(range(10, 0, -1))


async def test_the_last_page_has_no_next_one_even_when_it_is_full(shared_log: Log):
    await shared_log.fill(10)
    assert (await page(shared_log.database, shared_log.tenant, limit=10)).next is None
    assert (await page(shared_log.database, uuid7().hex)).entries == []


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (Filters(action="key.issue"), {3}),
        (Filters(action="key.*"), {3, 4}),
        (Filters(action="tools/call", outcome="timeout"), {2}),
        (Filters(actor="key_2"), {5}),
        (Filters(target="echo"), {6}),
        (Filters(session="session-9"), {7}),
        (Filters(actor="key_1", target="add", outcome="ok", action="tools/call"), {1, 7}),
        (Filters(action="*"), {1, 2, 3, 4, 5, 6, 7}),
        (Filters(action="nothing"), set()),
    ],
)
async def test_filters_choose_entries(shared_log: Log, filters: Filters, wanted: set[int]):
    changes: list[dict[str, Any]] = [
        {},
        {"outcome": "timeout"},
        {"action": "key.issue"},
        {"action": "key.revoke"},
        {"actor": "key_2"},
        {"target": "echo"},
        {"session_id": "session-9"},
    ]
    await shared_log.append([shared_log.happened(**each) for each in changes])
    assert {entry.seq for entry in await every(shared_log, filters, limit=2)} == wanted


async def test_times_choose_by_when_it_happened(shared_log: Log):
    now = utcnow()
    for hours in (3, 2, 1):
        await shared_log.append([shared_log.happened(occurred_us=microseconds(now - timedelta(hours=hours)))])
    between = Filters(since=now - timedelta(hours=2, minutes=30), until=now - timedelta(minutes=90))
    assert [entry.seq for entry in await every(shared_log, between)] == [2]
    assert [entry.seq for entry in await every(shared_log, Filters(since=now - timedelta(hours=2)))] == [3, 2]
    assert [entry.seq for entry in await every(shared_log, Filters(until=now - timedelta(hours=2)))] == [1]


async def test_a_rare_entry_is_found_over_pages_that_look_at_so_many_each(
    shared_log: Log, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(query, "SCAN", 20)
    await shared_log.append([shared_log.happened(outcome="parked")])
    await shared_log.fill(100)
    wanted = Filters(outcome="parked")
    first = await page(shared_log.database, shared_log.tenant, wanted)
    assert (first.entries, first.next) == ([], 82)
    assert [entry.seq for entry in await every(shared_log, wanted)] == [1]


async def test_another_tenants_entries_are_never_among_them(shared_log: Log):
    await shared_log.append([shared_log.happened(tenant=uuid7().hex), shared_log.happened()])
    assert len(await every(shared_log)) == 1


async def test_one_entry_is_found_by_its_id_and_by_nobody_else(shared_log: Log):
    event = shared_log.happened()
    await shared_log.append([event])
    entry = await find(shared_log.database, shared_log.tenant, event.id)
    assert entry is not None
    assert entry.event == event
    assert await find(shared_log.database, uuid7().hex, event.id) is None
    assert await find(shared_log.database, shared_log.tenant, uuid7().hex) is None


async def test_how_far_a_chain_has_come_is_told_with_what_was_signed(shared_log: Log):
    assert await standing(shared_log.database, shared_log.tenant) is None
    await shared_log.fill(1_010)
    there = await standing(shared_log.database, shared_log.tenant)
    assert there is not None
    assert there.checkpoint is not None
    assert (there.head.seq, there.checkpoint.seq) == (1_010, 1_000)


def test_other_filters_have_another_digest():
    assert Filters(actor="a").digest == Filters(actor="a").digest
    digests = {each.digest for each in (ALL, Filters(actor="a"), Filters(target="a"), Filters(since=utcnow()))}
    assert len(digests) == 4
