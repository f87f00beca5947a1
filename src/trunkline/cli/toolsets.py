"""`trunkline toolset`: what tenants may call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.environment import WHERE, ask, change, deployment_settings
from trunkline.cli.output import print_rows, say_error
from trunkline.cli.tenants import AsJson, Slug
from trunkline.errors import StartRefused

if TYPE_CHECKING:
    from trunkline.settings import Settings

app = typer.Typer(help=f"What tenants may call. {WHERE}", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="The toolset's name.")]


@app.command("list")
def list_toolsets(
    slug: Annotated[str | None, typer.Argument(help="A tenant, to see what it has switched on.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what can be switched on, or what a tenant has on.

    What can be switched on is the builtin demo, the servers of installed packages and those of TRUNKLINE_SERVERS; a
    worker's own --server is known to that worker alone.
    """
    if slug is not None:
        tenant = ask(lambda there: there.tenants.get(slug))
        rows = [{"toolset": switch.name, "on": switch.enabled} for switch in tenant.toolsets]
        print_rows(rows, ["toolset", "on"], as_json=as_json)
        return
    configured = deployment_settings()

    from trunkline.toolsets.catalog import gather

    offered = [
        {"toolset": each.name, "title": each.title, "source": each.source} for each in gather(configured.servers)
    ]
    print_rows(offered, ["toolset", "source", "title"], as_json=as_json)


@app.command()
def enable(slug: Slug, name: Name) -> None:
    """Switch a toolset on for a tenant, on all workers at once."""
    change(lambda there: there.tenants.enable(slug, name))
    typer.echo(f"Switched {name} on for {slug}.")
    if name not in _known_here(deployment_settings()):
        say_error(f"No MCP server called {name!r} is known here; its tools appear once a worker hosts one.")


@app.command()
def disable(slug: Slug, name: Name) -> None:
    """Switch a toolset off for a tenant, on all workers at once."""
    change(lambda there: there.tenants.disable(slug, name))
    typer.echo(f"Switched {name} off for {slug}.")


def _known_here(configured: Settings) -> set[str]:
    """Names of the servers that can be loaded here; a worker elsewhere may host others."""
    from trunkline.toolsets.catalog import gather

    try:
        return {each.name for each in gather(configured.servers)}
    except StartRefused:
        return set()
