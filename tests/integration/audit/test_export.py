from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from tests.integration.audit.logs import Log
from uuid_utils import uuid7

from trunkline.audit.export import Export
from trunkline.audit.signing import read_signers
from trunkline.audit.verify import verify_copy
from trunkline.errors import UsageError

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
    assert verify_copy(lines, shared_log.signers).intact
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


async def test_a_copy_that_nobody_reads_to_its_end_gives_its_connection_back(shared_log: Log, export: Export):
    await shared_log.fill(500)
    for _ in range(20):  # more than there are connections
        async with aclosing(export.jsonl(shared_log.tenant)) as stream:  # type: ignore[type-var]
            async for _part in stream:
                break
    assert len(await lines_of(export, shared_log)) == 501
