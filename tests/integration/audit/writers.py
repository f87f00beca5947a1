"""Audit events on their way, and writers of them whose progress a test can wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text
from uuid_utils import uuid7

from trunkline.audit.seed import seed
from trunkline.audit.write import AuditWriter
from trunkline.db import Database, Scope, task_scope
from trunkline.metrics import Metrics
from trunkline.streams.audit import EVENT_LINES, AuditEntry, AuditFeed
from trunkline.streams.client import Redis

TENANT = "0198f2a4c0de70008000000000000002"
AT = 1_793_000_000_123
ROOT = SecretStr("a root of at least thirty-two characters")


def event(actor: str = "key_1", **changes: bytes) -> bytes:
    """The lines of an event, some of them changed."""
    known = {
        "member": f"{TENANT}:session-1:{uuid7().hex}".encode(),
        "outcome": b"ok",
        "compute": b"340",
        "answer": b"21",
        "worker": b"worker-1",
        "ended": b"%d" % (AT + 12),
        "accepted": b"%d" % AT,
        "request_id": b"7",
        "seed": seed(actor=actor, pod="api-1", target="add", arguments={"a": 3}, size=90),
    }
    return b"\n".join((known | changes).values())


async def append(redis: Redis, *entries: bytes, lane: int = 3) -> None:
    """Entries of one event each, or what each is given."""
    for lines in entries:
        await redis.command("XADD", redis.keys.audit(lane), "*", "e", lines)
        await redis.command("INCRBY", redis.keys.unwritten(lane), (lines.count(b"\n") + 1) // EVENT_LINES)


async def rows(database: Database) -> list[dict[str, Any]]:
    async with database.transaction(task_scope("audit")) as session:
        found = await session.execute(text("SELECT * FROM audit_events ORDER BY seq"))
        return [dict(row) for row in found.mappings()]


class Watched(AuditFeed):
    """A feed that lets a test wait until so many events are acknowledged, by whichever writer."""

    def __init__(self, redis: Redis, consumer: str = "writer-1", beside: Watched | None = None) -> None:
        super().__init__(redis, consumer)
        self.acknowledged: asyncio.Semaphore = beside.acknowledged if beside else asyncio.Semaphore(0)

    async def ack(self, entries: Sequence[AuditEntry]) -> None:
        await super().ack(entries)
        for _ in entries:
            self.acknowledged.release()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            for _ in range(count):
                await self.acknowledged.acquire()


@contextlib.asynccontextmanager
async def writing(feed: Any, database: Any, metrics: Metrics | None = None) -> AsyncIterator[AuditWriter]:
    writer = AuditWriter(feed, database, metrics or Metrics("worker"), ROOT, linger=0.01)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        await asyncio.wait_for(writer.stop(), 10)
        await asyncio.wait_for(task, 1)


@contextlib.asynccontextmanager
async def reading(redis: Redis, consumer: str = "writer-1", beside: Watched | None = None) -> AsyncIterator[Watched]:
    feed = Watched(redis, consumer, beside)
    yield feed
    await feed.aclose()


class Tried:
    """A database that lets a test wait until so many transactions were tried."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tries = asyncio.Semaphore(0)

    @contextlib.asynccontextmanager
    async def transaction(self, scope: Scope) -> AsyncIterator[Any]:
        self._tries.release()
        async with self._database.transaction(scope) as session:
            yield session

    async def times(self, count: int) -> None:
        async with asyncio.timeout(10):
            for _ in range(count):
                await self._tries.acquire()
