"""`trunkline calls`: calls that the platform gave up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.environment import WHERE, ask
from trunkline.cli.output import print_rows

if TYPE_CHECKING:
    from trunkline.streams.lost import ParkedCall

app = typer.Typer(help=f"Calls that were given up. {WHERE}", rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep `parked` a command of its own, though it is the only one."""


@app.command()
def parked(
    slug: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List calls that were set aside, latest first: each of their attempts cost a worker.

    Their clients were told. The id is that of the audit log.
    """
    rows = ask(lambda there: _rows(there, slug))
    print_rows(rows, ["parked_at", "tenant", "tool", "call", "workers"], as_json=as_json)


async def _rows(there: Any, slug: str | None) -> list[dict[str, object]]:
    from trunkline.streams.lost import parked_calls

    slugs = {tenant.id: tenant.slug for tenant in await there.tenants.list()}
    if slug is not None:
        slugs = {(await there.tenants.get(slug)).id: slug}
    calls: list[ParkedCall] = await parked_calls(there.redis)
    return [
        {
            "parked_at": datetime.fromtimestamp(call.parked_ms / 1000, UTC),
            "tenant": slugs.get(call.tenant, call.tenant),
            "tool": call.tool,
            "call": call.id,
            "session": call.session,
            "workers": call.workers,
        }
        for call in calls
        if slug is None or call.tenant in slugs
    ]
