"""Measure a large audit log: filled by what the writer calls, then paged, exported and verified.

Each run goes on where the last one with the same --data stopped, so that a large log can be filled in steps.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from pydantic import SecretStr
from uuid_utils import uuid7

from bench.report import progress
from trunkline.audit.chain import Event, microseconds
from trunkline.audit.checking import Report
from trunkline.audit.export import Export
from trunkline.audit.heads import Heads
from trunkline.audit.query import ALL, Filters, page, standing
from trunkline.audit.signing import CheckpointSigner, HeadSealer
from trunkline.audit.verify import verify
from trunkline.audit.write import BATCH
from trunkline.db import Database, task_scope, utcnow
from trunkline.dev.data import DataDirectory
from trunkline.dev.stores import running_stores
from trunkline.schema import migrate

ROOT = SecretStr("the root of a log that nobody needs to trust")
LARGE = "0198f2a4c0de7000800000000000000a"
SMALL = "0198f2a4c0de7000800000000000000b"
SMALL_ROWS = 100_000
PAGES = 200
TOOLS = ("add", "echo", "search", "fetch")


def main() -> int:
    options = _options()
    directory = DataDirectory(options.data)
    with directory.locked(), running_stores(directory) as stores:
        migrate(stores.database_url)
        return uvloop.run(_run(stores.database_url, options.rows, options.seconds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/audit-scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="entries in the large log")
    parser.add_argument("--seconds", type=float, default=120.0, help="fill for so long in one run")
    parser.add_argument("--data", type=Path, default=Path(".trunkline/audit-scale"), help="where the log is kept")
    return parser.parse_args()


async def _run(database_url: str, rows: int, seconds: float) -> int:
    database = Database(database_url, process="audit-scale")
    try:
        end = time.monotonic() + seconds
        small = min(SMALL_ROWS, rows)
        for tenant, wanted in ((SMALL, small), (LARGE, rows)):
            there = await _fill(database, tenant, wanted, end)
            if there < wanted:
                progress(f"{there:,} of {wanted:,} entries are there; run it again to go on")
                return 0
        await _measure(database, rows, small)
    finally:
        await database.aclose()
    return 0


async def _fill(database: Database, tenant: str, wanted: int, end: float) -> int:
    """Append until so many entries are there, or the time is over; gives how many are."""
    heads = Heads(ROOT)
    found = await standing(database, tenant)
    there = started = found.head.seq if found else 0
    cpu, clock = time.process_time(), time.monotonic()
    while there < wanted and time.monotonic() < end:
        async with database.transaction(task_scope("audit")) as session:
            await heads.append(session, _events(tenant, min(BATCH, wanted - there)))
        there += min(BATCH, wanted - there)
    if there > started:
        each, real = (time.process_time() - cpu) / (there - started), (time.monotonic() - clock) / (there - started)
        progress(f"filled {there - started:,}: {each * 1e6:.1f} us of CPU, {real * 1e6:.1f} us an entry")
    return there


def _events(tenant: str, count: int) -> list[Event]:
    now = microseconds(utcnow())
    return [
        Event(
            tenant, uuid7().hex, now, "key", f"key_{number % 50}", None, "tools/call", TOOLS[number % 4],
            f"session-{number % 300}", "timeout" if number % 997 == 0 else "ok", 12_000, 300, 120, 450, "ab" * 32,
            "api-1", "worker-1", str(number), {},
        )
        for number in range(count)
    ]  # fmt: skip


async def _measure(database: Database, rows: int, small: int) -> None:
    await _pages(database, rows, "a page", ALL)
    await _pages(database, rows, "a page of one key's entries", Filters(actor="key_7"))
    await _pages(database, rows, "a page of rare entries", Filters(outcome="timeout"))
    export = Export(database, ROOT)
    for name, take in (("JSON Lines", export.jsonl), ("CSV", export.csv)):
        size = 0

        async def copy(take: Callable[..., object] = take) -> None:
            nonlocal size
            async for part in take(LARGE):  # type: ignore[attr-defined]
                size += len(part)

        took, grown = await _costs(copy)
        progress(f"export of {rows:,} as {name}: {took:.1f} s, {size / 2**20:.0f} MiB, {grown:.0f} MiB more memory")
    for tenant, count in ((SMALL, small), (LARGE, rows)):
        reports: list[Report] = []

        async def look(tenant: str = tenant, reports: list[Report] = reports) -> None:
            reports.append(await verify(database, tenant, HeadSealer(ROOT), CheckpointSigner(ROOT).signers()))

        took, grown = await _costs(look)
        found = "intact" if reports[0].intact else f"{len(reports[0].findings)} findings"
        progress(f"verify {count:,}: {took:.1f} s, {grown:.0f} MiB more memory, {found}")


async def _pages(database: Database, rows: int, name: str, filters: Filters) -> None:
    times = []
    for _ in range(PAGES):
        started = time.perf_counter()
        await page(database, LARGE, filters, random.randint(1, rows + 1))
        times.append(time.perf_counter() - started)
    times.sort()
    median, late = statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
    progress(f"{name} of {rows:,}: {median:.1f} ms, p99 {late:.1f} ms")


async def _costs(work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Seconds, and by how many MiB the highest memory use of this process has grown."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    await work()
    return time.perf_counter() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


if __name__ == "__main__":
    sys.exit(main())
