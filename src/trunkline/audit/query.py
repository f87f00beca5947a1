"""Reading a tenant's log, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.chain import Checkpoint, Entry, Head, microseconds
from trunkline.audit.entries import COLUMNS, from_row
from trunkline.audit.heads import head_of
from trunkline.db import Database, task_scope, tenant_scope

SCAN: Final = 5_000
"""Entries that are looked at for one page: where a filter finds few, the page is short and has a next one."""
_LATE: Final = timedelta(hours=1)
"""How much earlier than its time an event may seem to be recorded: clocks differ."""
_FIRST: Final = 2**63 - 1


class Filters(NamedTuple):
    """Which entries are wanted; what is None does not matter."""

    action: str | None = None
    """A name, or the beginning of names with `*` behind, such as `key.*`."""
    actor: str | None = None
    target: str | None = None
    outcome: str | None = None
    session: str | None = None
    since: datetime | None = None
    """Not before this."""
    until: datetime | None = None
    """Before this."""

    @property
    def digest(self) -> str:
        """The same for the same filters, in every process: a cursor is good for these alone."""
        return sha256(orjson.dumps([*self])).hexdigest()[:16]


ALL: Final = Filters()


class Page(NamedTuple):
    """Entries, newest first."""

    entries: Sequence[Entry]
    next: int | None
    """Give it as `before` for the page after this; None where there is none."""


class Standing(NamedTuple):
    """How far a chain has come, and what was last signed of it."""

    head: Head
    checkpoint: Checkpoint | None


async def page(
    database: Database, tenant_id: str, filters: Filters = ALL, before: int | None = None, limit: int = 50
) -> Page:
    """A tenant's entries before number `before`, newest first; at most `limit` and fewer where they are rare.

    Raises:
        Unavailable: Postgres is away.
    """
    indexed, others, values = _conditions(filters)
    values |= {"tenant": tenant_id, "before": _FIRST if before is None else before, "scan": SCAN, "more": limit + 1}
    inner = f"FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) AND seq < :before {indexed}"

    async def read(session: AsyncSession) -> Page:
        await in_order(session)
        looked_at = f"(SELECT * {inner} ORDER BY seq DESC LIMIT :scan) AS newest WHERE true {others}"
        wanted = f"FROM {looked_at}" if others else inner
        found = await session.execute(
            text(f"SELECT {COLUMNS} {wanted} ORDER BY seq DESC LIMIT :more"),
            values,
        )
        entries = [from_row(row) for row in found.all()]
        if len(entries) > limit:
            return Page(entries[:limit], entries[limit - 1].seq)
        if not others:
            return Page(entries, None)
        reached = await session.scalar(
            text(f"SELECT seq {inner} ORDER BY seq DESC OFFSET :scan - 1 LIMIT 1"),
            values,
        )
        return Page(entries, reached)

    return await database.look(read, scope=tenant_scope(tenant_id))


async def chains(database: Database) -> list[str]:
    """The ids of all tenants that have a log, deleted ones too.

    Raises:
        Unavailable: Postgres is away.
    """

    async def read(session: AsyncSession) -> list[str]:
        found = await session.scalars(text("SELECT tenant_id FROM audit_heads ORDER BY tenant_id"))
        return [each.hex for each in found]

    return await database.look(read, scope=task_scope("audit"))


async def find(database: Database, tenant_id: str, event_id: str) -> Entry | None:
    """One entry by the id of its event, 32 hex characters.

    Raises:
        Unavailable: Postgres is away.
    """
    query = text(
        f"SELECT {COLUMNS} FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) "  # noqa: S608
        "AND id = CAST(CAST(:id AS text) AS uuid) ORDER BY seq LIMIT 1"
    )

    async def read(session: AsyncSession) -> Entry | None:
        row = (await session.execute(query, {"tenant": tenant_id, "id": event_id})).first()
        return None if row is None else from_row(row)

    return await database.look(read, scope=tenant_scope(tenant_id))


async def after(database: Database, tenant_id: str, seq: int, limit: int) -> list[Entry]:
    """The first entries of a tenant after number `seq`, oldest first.

    Raises:
        Unavailable: Postgres is away.
    """
    query = text(
        f"SELECT {COLUMNS} FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) "  # noqa: S608
        "AND seq > :seq ORDER BY seq LIMIT :limit"
    )

    async def read(session: AsyncSession) -> list[Entry]:
        await in_order(session)
        found = await session.execute(query, {"tenant": tenant_id, "seq": seq, "limit": limit})
        return [from_row(row) for row in found.all()]

    return await database.look(read, scope=tenant_scope(tenant_id))


async def standing(database: Database, tenant_id: str) -> Standing | None:
    """How far a tenant's chain has come; None for one without entries.

    Raises:
        Unavailable: Postgres is away.
    """

    async def read(session: AsyncSession) -> Standing | None:
        head = await read_head(session, tenant_id)
        if head is None:
            return None
        checkpoints = await read_checkpoints(session, tenant_id, newest=True)
        return Standing(head[0], checkpoints[0] if checkpoints else None)

    return await database.look(read, scope=tenant_scope(tenant_id))


async def in_order(session: AsyncSession) -> None:
    """Have this transaction read the log by its index on tenant and number, without sorting.

    What Postgres believes of a partition's size comes late: until then it would read all of a tenant's entries and
    sort them.
    """
    await session.execute(text("SET LOCAL enable_sort = off"))


async def read_head(session: AsyncSession, tenant_id: str) -> tuple[Head, bytes] | None:
    """A tenant's head with the code that is kept with it, as it is in Postgres."""
    query = text("SELECT * FROM audit_heads WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid)")
    row = (await session.execute(query, {"tenant": tenant_id})).first()
    return None if row is None else (head_of(row), row.mac)


async def read_checkpoints(session: AsyncSession, tenant_id: str, *, newest: bool = False) -> list[Checkpoint]:
    """A tenant's checkpoints as they are in Postgres, newest first; the newest alone where that is wanted."""
    query = text(
        "SELECT seq, hash, recorded_at, kind, kid, signature FROM audit_checkpoints "
        "WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) ORDER BY seq DESC LIMIT :limit"
    )
    found = await session.execute(query, {"tenant": tenant_id, "limit": 1 if newest else None})
    return [
        Checkpoint(tenant_id, seq, digest, microseconds(recorded), kind, kid, signature)
        for seq, digest, recorded, kind, kid, signature in found.all()
    ]


def _conditions(filters: Filters) -> tuple[str, str, dict[str, Any]]:
    """What an index answers, what is looked at row by row, and the values of both."""
    values: dict[str, Any] = {}
    indexed, others = "", ""
    for name in ("actor", "target"):
        if (value := getattr(filters, name)) is not None:
            indexed += f" AND {name} = :{name}"
            values[name] = value
    for name, column in (("outcome", "outcome"), ("session", "session_id")):
        if (value := getattr(filters, name)) is not None:
            others += f" AND {column} = :{name}"
            values[name] = value
    if filters.action is not None:
        begins = filters.action.endswith("*")
        others += " AND starts_with(action, :action)" if begins else " AND action = :action"
        values["action"] = filters.action.removesuffix("*")
    if filters.since is not None:
        indexed += " AND recorded_at >= :recorded_since"
        others += " AND occurred_at >= :since"
        values |= {"since": filters.since, "recorded_since": filters.since - _LATE}
    if filters.until is not None:
        others += " AND occurred_at < :until"
        values["until"] = filters.until
    return indexed, others, values
