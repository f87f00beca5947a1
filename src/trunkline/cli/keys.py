"""`trunkline key`: what a tenant's clients authenticate with."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.environment import WHERE, ask, change
from trunkline.cli.output import print_rows, say_error, shown
from trunkline.cli.tenants import AsJson, Slug

if TYPE_CHECKING:
    from trunkline.tenants.key_record import KeyRecord

app = typer.Typer(help=f"API keys. {WHERE}", rich_markup_mode=None)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, key_...; `trunkline key list` tells it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the key alone.")]


@app.command()
def issue(
    slug: Slug,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S",
            help="mcp:call, mcp:read, tenant:admin, audit:read, ...; may be repeated; the first two by default.",
        ),
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Tools it may call, * and ? allowed; may be repeated; all by default."),
    ] = None,
    expires: Annotated[str, typer.Option(metavar="90d", help="Lifetime: a number and s, m, h, d or w.")] = "90d",
    address: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Where it may be used from; may be repeated; everywhere by default."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Messages a second, beside the tenant's limit.")] = None,
    burst: Annotated[int | None, typer.Option(help="Messages at once; with --rate.")] = None,
    in_flight: Annotated[int | None, typer.Option(help="Tool calls that are not answered.")] = None,
    sessions: Annotated[int | None, typer.Option(help="Sessions that live.")] = None,
    monthly_calls: Annotated[int | None, typer.Option(help="Tool calls in a month (UTC).")] = None,
    monthly_compute: Annotated[int | None, typer.Option(help="Seconds that tools run in a month.")] = None,
    quiet: Quiet = False,
) -> None:
    """Issue a key for a tenant.

    It is shown this once and stored nowhere.
    """
    from trunkline.tenants.key_options import parse_duration
    from trunkline.tenants.limits import KeyLimits

    lifetime = parse_duration(expires)
    limits = KeyLimits(rate, burst, in_flight, calls=monthly_calls, compute=monthly_compute, sessions=sessions)
    token, record = change(
        lambda there: there.keys.issue(
            slug,
            name=name,
            scopes=scope or (),
            tools=tool or (),
            addresses=address or (),
            limits=limits,
            expires=lifetime,
        )
    )
    _show_new(token, record, quiet=quiet)


@app.command("list")
def list_keys(slug: Slug, as_json: AsJson = False) -> None:
    """List what is known of a tenant's keys.

    The keys themselves are stored nowhere.
    """
    records = ask(lambda there: there.keys.list(slug))
    now = datetime.now(UTC)
    print_rows(
        [_row(record, now) for record in records],
        ["id", "name", "state", "scopes", "tools", "created_at", "expires_at", "last_used_at"],
        as_json=as_json,
    )


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="24h", help="How long the old key still works: a number and s, m, h, d or w.")
    ] = "24h",
    quiet: Quiet = False,
) -> None:
    """Replace a key by one with the same rights and lifetime.

    The old one stops working after the overlap.
    """
    from trunkline.tenants.key_options import parse_duration

    period = parse_duration(overlap)
    token, record = change(lambda there: there.keys.rotate(key_id, overlap=period))
    _show_new(token, record, quiet=quiet)


@app.command()
def revoke(
    key_id: KeyId,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="Tell the pods first; it is written down when Postgres is there.")
    ] = False,
) -> None:
    """Make a key stop working everywhere within a second.

    Streams opened with it end too.
    """
    if emergency and change(lambda there: there.keys.revoke_first(key_id)) is None:
        typer.echo(f"Key {key_id} is refused everywhere; it is written down when Postgres is back.")
        return
    if not emergency:
        change(lambda there: there.keys.revoke(key_id))
    typer.echo(f"Revoked key {key_id}.")


def _show_new(token: str, record: KeyRecord, *, quiet: bool) -> None:
    typer.echo(token)
    if not quiet:
        say_error(f"This is key {record.id}, good until {shown(record.expires_at)} UTC. It is not shown again.")


def _row(record: KeyRecord, now: datetime) -> dict[str, Any]:
    limits = None if record.limits is None else record.limits.claims()
    return {**asdict(record), "limits": limits, "state": state(record, now)}


def state(record: KeyRecord, now: datetime) -> str:
    """What a person wants to know of a key first."""
    if record.revoked_at is not None and record.revoked_at <= now:
        return "revoked"
    if record.expires_at <= now:
        return "expired"
    if record.revoked_at is not None:
        return f"ends {shown(record.revoked_at)}"
    return "active"
