"""What tenants use, by day, key and tool: rolled up from audit events in the transaction that writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final, Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.chain import Event, time_of
from trunkline.audit.seed import TOOL_CALL
from trunkline.db import Database, task_scope, tenant_scope

_DAY_US = 86_400_000_000


class UsageKey(NamedTuple):
    """What a row of usage is about."""

    tenant: str
    day: date
    """Of acceptance, UTC."""
    key_id: str
    """Empty for calls without a key."""
    tool: str


class Used(NamedTuple):
    """How much."""

    calls: int = 0
    errors: int = 0
    """Calls whose outcome is not `ok`."""
    compute_us: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def plus(self, other: Used) -> Used:
        """Both together."""
        return Used(*map(int.__add__, self, other))


def roll_up(events: Iterable[Event]) -> dict[UsageKey, Used]:
    """The usage of the tool calls among these events."""
    sums: dict[tuple[str, int, str | None, str | None], list[int]] = {}
    for event in events:
        if event.action != TOOL_CALL:
            continue
        key = (event.tenant, event.occurred_us // _DAY_US, event.actor, event.target)
        found = sums.get(key)
        if found is None:
            found = sums[key] = [0, 0, 0, 0, 0]
        found[0] += 1
        found[1] += event.outcome != "ok"
        found[2] += event.compute_us
        found[3] += event.bytes_in
        found[4] += event.bytes_out
    return {
        UsageKey(tenant, time_of(day * _DAY_US).date(), actor or "", tool or ""): Used(*each)
        for (tenant, day, actor, tool), each in sums.items()
    }


By = Literal["day", "key", "tool"]
BY: Final[tuple[By, ...]] = ("day", "key", "tool")
_COLUMNS: Final[dict[By, str]] = {"day": "day", "key": "key_id", "tool": "tool"}
_SUMS: Final = ", ".join(f"coalesce(sum({name}), 0)::bigint AS {name}" for name in Used._fields)


class UsageRow(NamedTuple):
    """What was used, of one day, key and tool, or of as many of these as were asked for."""

    day: date | None
    """None where days are not told apart; so with the others."""
    key_id: str | None
    tool: str | None
    used: Used


class UsageTable(NamedTuple):
    """The rows, by day, key and tool, and their sum."""

    rows: Sequence[UsageRow]
    total: Used


class UsageReader:
    """Reads what tenants used; exact to the last event that was written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, tenant_id: str, first: date, last: date, by: frozenset[str] = frozenset(BY)) -> UsageTable:
        """What a tenant used from `first` to `last`, both included (UTC), told apart by some of `BY`.

        Raises:
            Unavailable: Postgres is away.
        """
        columns = [_COLUMNS[each] for each in BY if each in by]
        grouped = f"GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else "HAVING count(*) > 0"
        query = text(
            f"SELECT {', '.join([*columns, _SUMS])} FROM usage_daily "  # noqa: S608
            f"WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) AND day BETWEEN :first AND :last {grouped}"
        )

        async def look(session: AsyncSession) -> list[UsageRow]:
            found = await session.execute(query, {"tenant": tenant_id, "first": first, "last": last})
            rows = [dict(row) for row in found.mappings()]
            return [
                UsageRow(
                    row.get("day"), row.get("key_id"), row.get("tool"), Used(*(row[name] for name in Used._fields))
                )
                for row in rows
            ]

        rows = await self._database.look(look, scope=tenant_scope(tenant_id))
        total = Used()
        for row in rows:
            total = total.plus(row.used)
        return UsageTable(rows, total)

    async def totals(self) -> dict[str, Used]:
        """What each tenant has used since it was made, by its id: for operators.

        Raises:
            Unavailable: Postgres is away.
        """
        query = text(f"SELECT tenant_id, {_SUMS} FROM usage_daily GROUP BY tenant_id")  # noqa: S608

        async def look(session: AsyncSession) -> dict[str, Used]:
            return {tenant.hex: Used(*sums) for tenant, *sums in (await session.execute(query)).all()}

        return await self._database.look(look, scope=task_scope("operator"))
