"""A log of some size, read in bounded memory and time; `scripts/audit-scale` does the same with a million entries."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.integration.audit.logs import Log
from uuid_utils import uuid7

from trunkline.audit.export import Export
from trunkline.audit.query import Filters, page
from trunkline.db import Database
from trunkline.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = 20_000
MOST_MEMORY = 32 * 2**20
"""Bytes by which reading all of it may let this process grow."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def large_log(shared_settings: Settings) -> AsyncIterator[Log]:
    database = Database(shared_settings.database_url, process="test")
    log = Log(shared_settings, database, uuid7().hex)
    await log.fill(COUNT)
    yield log
    await database.aclose()


def memory() -> int:
    """The most that this process has ever used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def test_it_is_exported_in_bounded_memory(large_log: Log):
    export = Export(large_log.database, large_log.settings.secret_key)
    before, size = memory(), 0
    async for part in export.jsonl(large_log.tenant):
        size += len(part)
    assert size > 500 * COUNT
    assert memory() - before < MOST_MEMORY


async def test_it_is_verified_in_bounded_memory_and_two_seconds(large_log: Log):
    before, started = memory(), time.process_time()
    assert (await large_log.verify()).entries == COUNT
    assert time.process_time() - started < 2.0
    assert memory() - before < MOST_MEMORY


@pytest.mark.parametrize("filters", [Filters(), Filters(actor="key_1"), Filters(outcome="timeout")])
async def test_a_page_anywhere_in_it_takes_milliseconds(large_log: Log, filters: Filters):
    times = []
    for before in range(COUNT, 0, -COUNT // 20):
        started = time.perf_counter()
        await page(large_log.database, large_log.tenant, filters, before)
        times.append(time.perf_counter() - started)
    assert sorted(times)[len(times) // 2] < 0.05
