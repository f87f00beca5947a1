"""Logs of tenants in a real Postgres, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import text
from tests.unit.audit.chains import TENANT, event
from uuid_utils import uuid7

from trunkline.audit.chain import Event, microseconds
from trunkline.audit.checking import Report
from trunkline.audit.heads import Appended, Heads
from trunkline.audit.signing import CheckpointSigner, HeadSealer
from trunkline.audit.verify import verify
from trunkline.db import Database, task_scope, utcnow
from trunkline.settings import Settings

BATCH = 500


def happened(**changes: Any) -> Event:
    """Something that has just happened."""
    return event(**{"id": uuid7().hex, "occurred_us": microseconds(utcnow())} | changes)


@asynccontextmanager
async def intruder(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The owner of the tables, with all that an owner can take away: whoever this is has no key."""
    connection = await asyncpg.connect(database_url)
    try:
        for table in ("audit_events", "audit_heads", "audit_checkpoints", "usage_daily"):
            await connection.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        yield connection
    finally:
        await connection.close()


class Log:
    """The log of a deployment: written as the writer writes it, verified as the command does."""

    def __init__(self, settings: Settings, database: Database, tenant: str = TENANT) -> None:
        self.settings = settings
        self.tenant = tenant
        self.database = database
        self.heads = Heads(settings.secret_key)
        self.sealer = HeadSealer(settings.secret_key)
        self.signers = CheckpointSigner(settings.secret_key).signers()

    async def append(self, events: Sequence[Event]) -> Appended:
        """Append these in one transaction."""
        async with self.database.transaction(task_scope("audit")) as session:
            return await self.heads.append(session, events)

    def happened(self, **changes: Any) -> Event:
        """Something that has just happened to the tenant."""
        return happened(**{"tenant": self.tenant} | changes)

    async def fill(self, count: int, **changes: Any) -> None:
        """Append so many events of a tenant, in batches."""
        for start in range(0, count, BATCH):
            await self.append([self.happened(**changes) for _ in range(min(BATCH, count - start))])

    async def tamper(self, *statements: str) -> None:
        """Run statements as an intruder; `mine` in them is a condition for the tenant's rows."""
        async with intruder(self.settings.database_url) as connection:
            for statement in statements:
                await connection.execute(statement.replace("mine", f"tenant_id = '{self.tenant}'"))

    async def verify(self, tenant: str = "", **known: Any) -> Report:
        """What `trunkline audit verify` finds."""
        return await verify(self.database, tenant or self.tenant, self.sealer, self.signers, **known)

    async def rows(self, tenant: str = "", table: str = "audit_events") -> list[dict[str, Any]]:
        """A tenant's rows of a table of the log."""
        query = text(f"SELECT * FROM {table} WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid)")
        async with self.database.transaction(task_scope("audit")) as session:
            found = [
                dict(row) for row in (await session.execute(query, {"tenant": tenant or self.tenant})).mappings()
            ]
        return sorted(found, key=lambda row: row.get("seq", 0))
