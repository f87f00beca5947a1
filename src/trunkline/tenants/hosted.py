"""Which toolsets there are to switch on: workers say what they host, since API pods import no servers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import structlog
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.control_errors import ToolsetNotFound
from trunkline.db import Database, task_scope, utcnow
from trunkline.errors import Unavailable
from trunkline.tenants.tables import HostedToolsetRow

TOLD_EVERY = 3600.0
"""Seconds between two announcements of a worker."""
TOLD_AGAIN = 30.0
"""Seconds until the next one where Postgres is away."""
SHOWN = timedelta(days=7)
"""For how long a toolset is listed after a worker last said that it hosts it."""

log = structlog.get_logger(__name__)


class HostedToolset(NamedTuple):
    """A toolset that workers host."""

    name: str
    title: str
    source: str = ""
    schema: Mapping[str, Any] | None = None
    """What tenants may configure (JSON Schema); None for nothing."""


async def announce(database: Database, toolsets: Sequence[HostedToolset]) -> None:
    """Tell what this process hosts, in place of what another one has told of the same names."""
    rows = [
        {"name": each.name, "title": each.title, "source": each.source, "config_schema": each.schema}
        for each in sorted(toolsets)
    ]
    statement = insert(HostedToolsetRow).values(rows)
    newer = {name: statement.excluded[name] for name in ("title", "source", "config_schema")}
    async with database.transaction(task_scope("catalog")) as session:
        await session.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={**newer, "seen_at": func.now()})
        )


async def keep_announcing(database: Database, toolsets: Sequence[HostedToolset]) -> NoReturn:
    """Tell it at once and from time to time, until cancelled."""
    while True:
        pause = TOLD_EVERY
        try:
            await announce(database, toolsets)
        except Unavailable as error:
            log.warning("what is hosted here could not be told", reason=error.message)
            pause = TOLD_AGAIN
        await asyncio.sleep(pause)


async def find(session: AsyncSession, name: str) -> HostedToolset:
    """The toolset of that name.

    Raises:
        ToolsetNotFound: no worker hosts such.
    """
    row = await session.get(HostedToolsetRow, name)
    if row is None or row.seen_at < utcnow() - SHOWN:
        raise ToolsetNotFound(f"No worker hosts a toolset {name!r}.")
    return HostedToolset(row.name, row.title, row.source, row.config_schema)


async def listed(session: AsyncSession) -> tuple[HostedToolset, ...]:
    """All that there is to switch on, by name."""
    query = select(HostedToolsetRow).where(HostedToolsetRow.seen_at >= utcnow() - SHOWN)
    rows = await session.scalars(query.order_by(HostedToolsetRow.name))
    return tuple(HostedToolset(row.name, row.title, row.source, row.config_schema) for row in rows)
