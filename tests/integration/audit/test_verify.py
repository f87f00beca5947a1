"""Whoever has the database, but not the root, leaves traces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from tests.integration.audit.logs import Log, happened, intruder
from uuid_utils import uuid7

from trunkline.audit.chain import Head, canonical, genesis, link
from trunkline.audit.checking import Report
from trunkline.audit.entries import COLUMNS, from_row
from trunkline.audit.query import standing
from trunkline.audit.signing import CheckpointSigner

COUNT = 1_100

Tamper = Callable[[Log], Coroutine[Any, Any, object]]


def sql(*statements: str) -> Tamper:
    return lambda log: log.tamper(*statements)


def entry(number: int, change: str) -> Tamper:
    return sql(f"UPDATE audit_events SET {change} WHERE mine AND seq = {number}")


async def rewrite(log: Log) -> None:
    """Change an entry and compute all hashes after it again, as anybody can who reads the documentation."""
    await log.tamper("UPDATE audit_events SET outcome = 'ok', target = 'harmless' WHERE mine AND seq = 42")
    async with intruder(log.settings.database_url) as connection:
        rows = await connection.fetch(
            f"SELECT {COLUMNS} FROM audit_events WHERE tenant_id = $1 ORDER BY seq", UUID(log.tenant)
        )
        previous, hashes = genesis(log.tenant), []
        for row in rows:
            entry = from_row(tuple(row))
            previous = link(previous, canonical(entry.seq, entry.recorded_us, entry.event))
            hashes.append(previous)
        await connection.execute(
            "UPDATE audit_events SET hash = h FROM unnest($1::bigint[], $2::bytea[]) AS new (s, h) "
            "WHERE seq = s AND tenant_id = $3",
            [row["seq"] for row in rows],
            hashes,
            UUID(log.tenant),
        )
        await connection.execute("UPDATE audit_heads SET hash = $1 WHERE tenant_id = $2", previous, UUID(log.tenant))


async def rewrite_with_checkpoints(log: Log) -> None:
    """The same, with what was signed made to fit."""
    await rewrite(log)
    await log.tamper(
        "UPDATE audit_checkpoints c SET hash = e.hash FROM audit_events e "
        "WHERE e.seq = c.seq AND c.tenant_id = e.tenant_id AND c.mine"
    )


SAVE = "CREATE TABLE IF NOT EXISTS saved (LIKE audit_heads); INSERT INTO saved SELECT * FROM audit_heads WHERE mine"
PUT_BACK = """
    DELETE FROM audit_events WHERE mine AND seq > 900;
    UPDATE audit_heads h SET seq = s.seq, hash = s.hash, recorded_at = s.recorded_at, mac = s.mac FROM saved s
    WHERE s.mine AND h.mine
"""
SWAP = """
    CREATE TEMP TABLE pair AS SELECT * FROM audit_events WHERE mine AND seq IN (41, 42);
    DELETE FROM audit_events WHERE mine AND seq IN (41, 42);
    UPDATE pair SET seq = 83 - seq;
    INSERT INTO audit_events SELECT * FROM pair
"""
DUPLICATE = """
    CREATE TEMP TABLE one AS SELECT * FROM audit_events WHERE mine AND seq = 42;
    UPDATE one SET id = gen_random_uuid(), recorded_at = recorded_at + interval '1 microsecond';
    INSERT INTO audit_events SELECT * FROM one
"""
APPEND = """
    CREATE TEMP TABLE one AS SELECT * FROM audit_events WHERE mine AND seq = 1100;
    UPDATE one SET id = gen_random_uuid(), seq = 1101;
    INSERT INTO audit_events SELECT * FROM one
"""
SHIFT = """
    DELETE FROM audit_events WHERE mine AND seq = 1042;
    UPDATE audit_events SET seq = seq - 1 WHERE mine AND seq > 1042;
    UPDATE audit_heads SET seq = seq - 1 WHERE mine
"""


@pytest.mark.parametrize(
    ("tamper", "kinds"),
    [
        pytest.param(entry(42, "outcome = 'ok'"), {"changed"}, id="changed"),
        pytest.param(entry(1100, "actor = NULL"), {"changed"}, id="last changed"),
        pytest.param(entry(42, "detail = '{\"a\": 1.5}'"), {"changed"}, id="detail"),
        pytest.param(entry(42, "hash = '\\x00'"), {"changed"}, id="hash changed"),
        pytest.param(
            entry(42, "recorded_at = recorded_at - interval '1 hour'"),
            {"changed", "reordered"},
            id="moved in time",
        ),
        pytest.param(sql("DELETE FROM audit_events WHERE mine AND seq = 42"), {"gap"}, id="deleted"),
        pytest.param(sql("DELETE FROM audit_events WHERE mine AND seq = 1"), {"gap"}, id="first deleted"),
        pytest.param(sql(SHIFT), {"changed", "head"}, id="deleted and closed up"),
        pytest.param(sql(DUPLICATE), {"changed", "inserted", "reordered"}, id="inserted"),
        pytest.param(sql(APPEND), {"changed", "inserted"}, id="appended"),
        pytest.param(sql(SWAP), {"changed"}, id="reordered"),
        pytest.param(sql("DELETE FROM audit_events WHERE mine AND seq > 1050"), {"cut off"}, id="cut off"),
        pytest.param(sql("DELETE FROM audit_events WHERE mine"), {"cut off"}, id="all deleted"),
        pytest.param(
            sql("DELETE FROM audit_events WHERE mine AND seq > 1050", "UPDATE audit_heads SET seq = 1050 WHERE mine"),
            {"head", "rewritten"},
            id="cut off with its head",
        ),
        pytest.param(sql("DELETE FROM audit_heads WHERE mine"), {"head"}, id="head deleted"),
        pytest.param(sql("DELETE FROM audit_checkpoints WHERE mine"), {"checkpoint"}, id="signatures deleted"),
        pytest.param(rewrite, {"rewritten", "head"}, id="rewritten without the key"),
        pytest.param(rewrite_with_checkpoints, {"checkpoint", "head"}, id="rewritten with forged signatures"),
    ],
)
async def test_tampering_is_found(shared_log: Log, tamper: Tamper, kinds: set[str]):
    await shared_log.fill(COUNT, outcome="error")
    assert (await shared_log.verify()).intact
    await tamper(shared_log)
    assert found(await shared_log.verify()) == kinds


async def test_an_old_head_put_back_with_all_that_was_there_then_is_found(shared_log: Log):
    await shared_log.fill(900)
    await shared_log.tamper(SAVE)
    await shared_log.fill(50)
    anchor = await head(shared_log)
    await shared_log.tamper(PUT_BACK)
    assert found(await shared_log.verify(anchor=anchor)) == {"cut off"}


async def test_an_old_head_put_back_is_found_without_redis_where_a_signature_is_beyond_it(shared_log: Log):
    await shared_log.fill(900)
    await shared_log.tamper(SAVE)
    await shared_log.fill(150)
    await shared_log.tamper(PUT_BACK)
    assert found(await shared_log.verify()) == {"cut off"}
    await shared_log.fill(200)
    assert "rewritten" in found(await shared_log.verify())


async def test_another_root_verifies_neither_head_nor_signatures(shared_log: Log):
    await shared_log.fill(COUNT)
    shared_log.signers = CheckpointSigner(SecretStr("another root of thirty-two characters")).signers()
    assert found(await shared_log.verify()) == {"checkpoint"}


async def test_a_log_that_grows_meanwhile_is_intact(shared_log: Log):
    await shared_log.fill(COUNT)
    writing = asyncio.create_task(shared_log.fill(1_000))
    reports = [await shared_log.verify() for _ in range(5)]
    await asyncio.wait_for(writing, 20)
    assert all(report.intact for report in reports)
    assert (await shared_log.verify()).entries == COUNT + 1_000


async def test_a_tenant_without_a_log_is_intact(shared_log: Log):
    assert (await shared_log.verify()).intact
    await shared_log.append([happened(tenant=uuid7().hex)])
    assert (await shared_log.verify()).entries == 0


def found(report: Report) -> set[str]:
    assert not report.intact
    return {finding.kind for finding in report.findings}


async def head(log: Log) -> Head:
    there = await standing(log.database, log.tenant)
    assert there is not None
    return there.head
