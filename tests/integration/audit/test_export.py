from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from tests.integration.audit.logs import Log
from tests.stores import as_owner
from uuid_utils import uuid7

from trunkline.audit.by import CLI
from trunkline.audit.export import MOST_EXPORTS, Export
from trunkline.audit.signing import read_signers
from trunkline.audit.verify import verify_copy
from trunkline.db import Database
from trunkline.errors import Forbidden, TooManyRequests, Unavailable, UsageError

COUNT = 1_050


@pytest.fixture
def export(shared_log: Log) -> Export:
    return Export(shared_log.database, shared_log.settings.secret_key, batch=100)


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in stream])


async def lines_of(export: Export, log: Log, **bounds: Any) -> list[bytes]:
    return (await whole(export.jsonl(log.tenant, **bounds))).splitlines()


async def test_a_copy_has_every_entry_in_order_and_verifies_with_the_public_key(shared_log: Log, export: Export):
    await shared_log.fill(COUNT)
    lines = await lines_of(export, shared_log)
    assert [json.loads(line)["seq"] for line in lines[:-1]] == list(range(1, COUNT + 1))
    end = json.loads(lines[-1])
    assert (end["checkpoint"]["seq"], end["signed"]["seq"]) == (COUNT, 1_000)
    report = verify_copy(lines, shared_log.signers)
    assert (report.intact, report.entries, report.tenant) == (True, COUNT, shared_log.tenant)


async def test_a_part_of_the_log_verifies_too(shared_log: Log, export: Export):
    await shared_log.fill(600)
    rows = await shared_log.rows()
    lines = await lines_of(export, shared_log, since=rows[500]["recorded_at"])
    assert [json.loads(line)["seq"] for line in lines[:-1]] == list(range(501, 601))
    report = verify_copy([*lines, b"\n"], shared_log.signers)
    assert (report.intact, report.span) == (True, (501, 600))
    earlier = await lines_of(export, shared_log, until=rows[500]["recorded_at"])
    assert len(earlier) == 501
    assert verify_copy(earlier, shared_log.signers).intact


@pytest.mark.parametrize("place", [0, 41, 98])
async def test_a_copy_that_was_changed_is_found_without_the_database(shared_log: Log, export: Export, place: int):
    await shared_log.fill(99)
    lines = await lines_of(export, shared_log)
    entry = json.loads(lines[place])
    changed = [*lines[:place], json.dumps(entry | {"outcome": "denied"}).encode(), *lines[place + 1 :]]
    assert not verify_copy(changed, shared_log.signers).intact
    assert not verify_copy(lines[:place] + lines[place + 1 :], shared_log.signers).intact
    assert not verify_copy(lines[:-1], shared_log.signers).intact
    assert not verify_copy(lines, read_signers(["11" * 32])).intact


async def test_a_copy_in_which_more_is_said_than_was_signed_is_refused(shared_log: Log, export: Export):
    await shared_log.fill(3)
    lines = await lines_of(export, shared_log)
    entry, end = json.loads(lines[0]), json.loads(lines[-1])
    for said in (
        [*lines, lines[0]],
        [*lines, lines[-1]],
        [json.dumps(entry | {"approved": True}).encode(), *lines[1:]],
        [json.dumps(entry | {"checkpoint": None}).encode(), *lines[1:]],
        [*lines[:-1], json.dumps(end | {"note": "complete"}).encode()],
        [*lines[:-1], json.dumps(end | {"checkpoint": end["checkpoint"] | {"by": "us"}}).encode()],
    ):
        with pytest.raises(UsageError, match="This is no export"):
            verify_copy(said, shared_log.signers)


async def test_a_log_without_entries_is_a_copy_without_any(shared_log: Log, export: Export):
    lines = await lines_of(export, shared_log)
    assert json.loads(lines[0])["tenant"] == shared_log.tenant
    assert len(lines) == 1


@pytest.mark.parametrize("lines", [[], [b"no json"], [b"{}"], [b"[1]"], [b'{"seq": 1}']])
def test_what_is_no_copy_is_refused_in_one_sentence(lines: list[bytes]):
    with pytest.raises(UsageError, match="This is no export"):
        verify_copy(lines, {})


async def test_csv_has_the_same_entries(shared_log: Log, export: Export):
    await shared_log.fill(250, target="=cmd|' /C calc'!A0")
    rows = list(csv.DictReader(io.StringIO((await whole(export.csv(shared_log.tenant))).decode(), newline="")))
    assert [int(row["seq"]) for row in rows] == list(range(1, 251))
    assert {row["target"] for row in rows} == {"'=cmd|' /C calc'!A0"}


async def test_another_tenants_log_is_not_in_it(shared_log: Log, export: Export):
    await shared_log.append([shared_log.happened(), shared_log.happened(tenant=uuid7().hex)])
    assert len(await lines_of(export, shared_log)) == 2


async def test_one_copy_of_a_log_is_taken_at_a_time_and_few_of_all(shared_log: Log, export: Export):
    first = await export.begin(shared_log.tenant, CLI, {})
    with pytest.raises(TooManyRequests, match="of this log"):
        await export.begin(shared_log.tenant, CLI, {})
    others = [await export.begin(uuid7().hex, CLI, {}) for _ in range(MOST_EXPORTS - 1)]
    with pytest.raises(TooManyRequests, match="Other exports"):
        await export.begin(uuid7().hex, CLI, {})
    first.release()
    again = await export.begin(shared_log.tenant, CLI, {})
    first.release()
    with pytest.raises(TooManyRequests):
        await export.begin(shared_log.tenant, CLI, {})
    del again, others  # as when the answer was never begun
    assert await export.begin(shared_log.tenant, CLI, {})


async def test_a_copy_that_cannot_be_begun_takes_no_place(shared_log: Log):
    export = Export(Database("postgresql://nobody@127.0.0.1:1/nothing"), shared_log.settings.secret_key)
    for _ in range(MOST_EXPORTS + 1):
        with pytest.raises(Unavailable):
            await export.begin(shared_log.tenant, CLI, {})


async def test_a_copy_ends_when_whoever_takes_it_may_not_any_more(
    shared_log: Log, export: Export, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("trunkline.audit.export._LOOK_EVERY", 0.0)
    await shared_log.fill(300)
    answers = [True, False]

    async def may() -> bool:
        return answers.pop(0)

    taking = await export.begin(shared_log.tenant, CLI, {}, may)
    parts = export.csv(shared_log.tenant, taking=taking)
    assert [await anext(parts) for _ in range(2)]
    with pytest.raises(Forbidden):
        await anext(parts)


async def test_a_copy_takes_no_longer_than_it_may(shared_log: Log, export: Export, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trunkline.audit.export.LONGEST", -1.0)
    await shared_log.fill(1)
    with pytest.raises(Unavailable, match="in parts"):
        await whole(export.csv(shared_log.tenant))


async def test_postgres_ends_a_copy_whose_reader_has_stopped(
    shared_log: Log, export: Export, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("trunkline.audit.export.IDLE", 0.05)
    await shared_log.fill(300)
    parts = export.csv(shared_log.tenant)
    assert [await anext(parts) for _ in range(2)]
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL"
    async with asyncio.timeout(10):
        while (await as_owner(shared_log.settings.database_url, f"{query} AND pid <> pg_backend_pid()"))[0][0]:
            pass
    with pytest.raises(Unavailable):
        await whole(parts)


async def test_a_copy_that_nobody_reads_to_its_end_gives_its_connection_back(shared_log: Log, export: Export):
    await shared_log.fill(500)
    for _ in range(20):  # more than there are connections
        async with aclosing(export.jsonl(shared_log.tenant)) as stream:  # type: ignore[type-var]
            async for _part in stream:
                break
    assert len(await lines_of(export, shared_log)) == 501
