"""`trunkline tenant`: who is served, by which rules."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trunkline.cli.environment import WHERE, ask, change
from trunkline.cli.output import print_rows
from trunkline.errors import UsageError

if TYPE_CHECKING:
    from trunkline.tenants.model import Tenant

app = typer.Typer(help=f"Tenants and their limits. {WHERE}", rich_markup_mode=None)

Slug = Annotated[str, typer.Argument(help="The tenant's name in URLs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(slug: Slug, name: Annotated[str, typer.Option(help="A name for people.")] = "") -> None:
    """Create a tenant, with no toolset switched on and no key."""
    tenant, url = change(lambda there: _created(there, slug, name))
    typer.echo(f"Created tenant {tenant.slug}: {url}/sse")
    typer.echo(f"Next: trunkline toolset enable {tenant.slug} demo; trunkline key issue {tenant.slug}")


async def _created(there: Any, slug: str, name: str) -> tuple[Tenant, str]:
    return await there.tenants.create(slug, name), there.settings.tenant_url(slug)


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List all tenants with their limits."""
    tenants = ask(lambda there: there.tenants.list())
    columns = ["slug", "name", "access", "status", "rate", "burst", "in_flight", "sessions", "toolsets"]
    print_rows([_row(tenant) for tenant in tenants], columns, as_json=as_json)


@app.command("set")
def set_values(
    slug: Slug,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="access=key|public, name, rate, burst, in_flight, sessions."),
    ],
) -> None:
    """Change a tenant: its access, its name, its limits.

    rate is in messages a second, burst in messages at once, in_flight in unanswered calls, sessions in live
    sessions; `default` takes a limit back to the deployment's.
    """
    values = parse_changes(changes)
    tenant = change(lambda there: there.tenants.set(slug, values))
    print_rows(
        [{"key": key, "value": value} for key, value in _row(tenant).items() if key in values],
        ["key", "value"],
        as_json=False,
    )


@app.command()
def suspend(
    slug: Slug,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="Tell the pods first; it is written down when Postgres is there.")
    ] = False,
) -> None:
    """Refuse a tenant's clients until it is resumed.

    Nothing of it is lost.
    """
    if emergency and change(lambda there: there.tenants.suspend_first(slug)) is None:
        typer.echo(f"Tenant {slug} is refused everywhere; it is written down when Postgres is back.")
        return
    if not emergency:
        change(lambda there: there.tenants.suspend(slug))
    typer.echo(f"Suspended tenant {slug}.")


@app.command()
def resume(slug: Slug) -> None:
    """Serve a suspended tenant again."""
    change(lambda there: there.tenants.resume(slug))
    typer.echo(f"Resumed tenant {slug}.")


@app.command()
def delete(slug: Slug) -> None:
    """Delete a tenant with its keys and toolsets, for good.

    Its audit log stays.
    """
    change(lambda there: there.tenants.delete(slug))
    typer.echo(f"Deleted tenant {slug}.")


def parse_changes(changes: list[str]) -> dict[str, str]:
    """`KEY=VALUE` arguments as a mapping.

    Raises:
        UsageError: one of them has no `=`.
    """
    values = {}
    for given in changes:
        key, equals, value = given.partition("=")
        if not equals:
            raise UsageError(f"{given!r} is not of the form KEY=VALUE, such as access=public.")
        values[key.strip()] = value.strip()
    return values


def _row(tenant: Tenant) -> dict[str, Any]:
    return {
        "slug": tenant.slug,
        "id": tenant.id,
        "name": tenant.name,
        "access": tenant.access,
        "status": tenant.status,
        **asdict(tenant.limits),
        **{f"monthly_{name}": value for name, value in tenant.quotas._asdict().items()},
        "toolsets": list(tenant.enabled_toolsets),
    }
