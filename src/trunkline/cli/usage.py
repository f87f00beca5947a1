"""`trunkline usage`: what a tenant has used."""

from __future__ import annotations

import csv
import sys
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.environment import ask
from trunkline.cli.output import print_rows
from trunkline.cli.tenants import AsJson, Slug
from trunkline.errors import UsageError

if TYPE_CHECKING:
    from trunkline.audit.usage import UsageTable
    from trunkline.cli.environment import Deployment

COLUMNS = ["day", "key", "tool", "calls", "errors", "compute_ms", "bytes_in", "bytes_out"]


def usage(
    slug: Slug,
    first: Annotated[str, typer.Option("--from", metavar="DAY", help="First day, UTC; else 30 days back.")] = "",
    last: Annotated[str, typer.Option("--to", metavar="DAY", help="Last day, UTC; else today.")] = "",
    by: Annotated[str, typer.Option(help="What is told apart: some of day,key,tool.")] = "day,key,tool",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a tenant has used: calls, errors, compute time, bytes in and out.

    The figures are the sums of the audit log's entries, to the last one.
    """
    from trunkline.audit.entries import cell
    from trunkline.audit.usage import BY, UsageReader
    from trunkline.db import utcnow

    wanted = frozenset(filter(None, by.split(",")))
    if not wanted <= frozenset(BY):
        raise UsageError("--by takes some of day, key and tool, with commas.")
    until = _day(last) or utcnow().date()
    since = _day(first) or until - timedelta(days=29)

    async def look(there: Deployment) -> UsageTable:
        tenant = await there.tenants.get(slug)
        return await UsageReader(there.database).read(tenant.id, since, until, wanted)

    table = ask(look)
    rows = [
        {
            "day": None if row.day is None else row.day.isoformat(),
            "key": row.key_id,
            "tool": row.tool,
            "calls": row.used.calls,
            "errors": row.used.errors,
            "compute_ms": row.used.compute_us / 1000,
            "bytes_in": row.used.bytes_in,
            "bytes_out": row.used.bytes_out,
        }
        for row in table.rows
    ]
    shown = [name for name in COLUMNS if name not in BY or name in wanted]
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(shown)
        writer.writerows([cell(row[name]) for name in shown] for row in rows)
        return
    print_rows(rows, shown, as_json=as_json)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{text!r} is no day; write it like 2026-11-01.") from None
