from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import DBAPIError
from tests.integration.audit.logs import Log, happened
from tests.unit.audit.chains import TENANT

from trunkline.audit.by import CLI, PLATFORM
from trunkline.audit.chain import genesis
from trunkline.audit.entries import from_row
from trunkline.audit.record import Recorder
from trunkline.db import act_for, task_scope, tenant_scope

OTHER = "0198f2a4c0de70008000000000000003"


async def test_numbers_begin_with_one_and_have_no_gaps(log: Log):
    await log.append([happened(), happened()])
    await log.append([happened()])
    assert [row["seq"] for row in await log.rows()] == [1, 2, 3]
    assert (await log.verify()).intact


async def test_each_tenant_has_a_chain_of_its_own(log: Log):
    appended = await log.append([happened(), happened(tenant=OTHER), happened()])
    assert {end.tenant: end.seq for _, end in appended.grown} == {TENANT: 2, OTHER: 1}
    assert (await log.verify()).entries == 2
    assert (await log.verify(OTHER)).intact


async def test_an_event_that_is_there_already_is_left_out_and_uses_no_number(log: Log):
    known = happened()
    await log.append([known])
    appended = await log.append([known, happened(), known])
    assert appended.written == 1
    assert [row["seq"] for row in await log.rows()] == [1, 2]
    assert (await log.append([known])).grown == []
    assert (await log.verify()).intact


async def test_writers_of_one_tenant_at_once_leave_one_chain(log: Log):
    shared = [happened() for _ in range(20)]
    batches = [[happened(), *shared[start : start + 10], happened(tenant=OTHER)] for start in range(0, 11, 2)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(log.append(batch) for batch in batches))
    assert [row["seq"] for row in await log.rows()] == list(range(1, 27))
    assert (await log.verify()).intact
    assert (await log.verify(OTHER)).intact


async def test_a_transaction_that_fails_uses_no_number(log: Log):
    await log.append([happened()])
    with pytest.raises(DBAPIError):
        await log.append([happened(), happened(bytes_in=2**63)])
    await log.append([happened()])
    assert [row["seq"] for row in await log.rows()] == [1, 2]
    assert (await log.verify()).intact


async def test_each_thousandth_entry_is_signed(log: Log):
    await log.fill(2_100)
    assert [row["seq"] for row in await log.rows(table="audit_checkpoints")] == [1_000, 2_000]
    assert (await log.verify()).intact


async def test_what_is_recorded_later_is_never_recorded_earlier(log: Log):
    await log.append([happened()])
    await log.tamper("UPDATE audit_heads SET recorded_at = recorded_at + interval '1 day'")
    await log.append([happened()])
    first, second = await log.rows()
    assert second["recorded_at"] > first["recorded_at"]


async def test_a_head_that_was_tampered_with_is_extended_and_says_so_for_ever(log: Log):
    await log.fill(3)
    await log.tamper("UPDATE audit_heads SET seq = 2")
    assert (await log.append([happened()])).broken == 1
    assert (await log.append([happened()])).broken == 0
    report = await log.verify()
    assert {"inserted", "broken"} <= {finding.kind for finding in report.findings}
    assert report.head is not None
    assert report.head.broken_at == 2


async def test_usage_is_rolled_up_with_the_entries_and_once(log: Log):
    events = [
        happened(compute_us=5, bytes_in=3, bytes_out=2),
        happened(outcome="timeout"),
        happened(actor=None),
        happened(action="key.issue"),
    ]
    await log.append(events)
    await log.append([*events, happened(compute_us=1)])
    rows = {(row["key_id"], row["tool"]): row for row in await log.rows(table="usage_daily")}
    assert set(rows) == {("key_1", "add"), ("", "add")}
    used = rows["key_1", "add"]
    assert (used["calls"], used["errors"]) == (3, 1)
    assert (used["compute_us"], used["bytes_in"], used["bytes_out"]) == (346, 203, 402)


async def test_a_row_holds_what_was_hashed(log: Log):
    event = happened(detail={"b": [1, True, None], "a": {"é": "ü"}}, address="192.0.2.1", session_id=None)
    await log.append([event])
    (row,) = await log.rows()
    columns = [row[name] for name in (
        "seq", "recorded_at", "hash", "tenant_id", "id", "occurred_at", "actor_kind", "actor", "address", "action",
        "target", "session_id", "outcome", "duration_ms", "compute_us", "bytes_in", "bytes_out", "arguments_hash",
        "api_pod", "worker_pod", "request_id", "detail",
    )]  # fmt: skip
    assert from_row(columns).event == event
    assert row["hash"] != genesis(TENANT)


async def test_a_change_by_the_control_plane_is_in_the_chain_of_its_tenant(log: Log):
    recorder = Recorder(log.settings.secret_key)
    async with log.database.transaction(tenant_scope(TENANT)) as session:
        await recorder.record(session, TENANT, "key.issue", by=CLI, target="key_1", detail={"name": "ci"})
    async with log.database.transaction(task_scope("account")) as session:
        await recorder.record(session, PLATFORM, "session.create", by=CLI)
        await act_for(session, TENANT)
        await recorder.record(session, TENANT, "member.join", by=CLI)
    assert [row["action"] for row in await log.rows()] == ["key.issue", "member.join"]
    assert [row["action"] for row in await log.rows(PLATFORM)] == ["session.create"]
    assert (await log.verify()).intact
    assert (await log.verify(PLATFORM)).intact


async def test_a_change_that_is_rolled_back_leaves_no_event_and_no_gap(log: Log):
    recorder = Recorder(log.settings.secret_key)

    async def fail() -> None:
        async with log.database.transaction(tenant_scope(TENANT)) as session:
            await recorder.record(session, TENANT, "key.issue", by=CLI)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail()
    await log.append([happened()])
    assert [row["action"] for row in await log.rows()] == ["tools/call"]


async def test_a_fraction_in_a_detail_is_refused_before_anything_is_locked(log: Log):
    recorder = Recorder(log.settings.secret_key)
    with pytest.raises(ValueError, match="no fractions"):
        async with log.database.transaction(tenant_scope(TENANT)) as session:
            await recorder.record(session, TENANT, "limits.set", by=CLI, detail={"rate": 0.5})


async def test_a_tenant_cannot_write_to_the_chain_of_another(log: Log):
    await log.append([happened(tenant=OTHER)])
    with pytest.raises(DBAPIError, match="row-level security"):
        async with log.database.transaction(tenant_scope(TENANT)) as session:
            await log.heads.append(session, [happened(tenant=OTHER)])
    assert len(await log.rows(OTHER)) == 1
