"""`trunkline toolset`: what tenants may call."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from trunkline.audit.by import CLI
from trunkline.cli.environment import WHERE, Deployment, ask, change, deployment_settings
from trunkline.cli.output import print_rows, say_error
from trunkline.cli.tenants import AsJson, Slug
from trunkline.errors import StartRefused, UsageError

if TYPE_CHECKING:
    from trunkline.settings import Settings
    from trunkline.tenants.configs import Configs, ToolsetConfig

Result = TypeVar("Result")

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


@app.command()
def config(
    slug: Slug,
    name: Name,
    file: Annotated[
        Path | None, typer.Option(help="A file with all fields as a JSON object; - for the standard input.")
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change one field. VALUE is JSON, or text; @FILE takes a file's text and @- the standard input's, "
            "as for secrets; null takes a secret away.",
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the configuration away.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print what can be configured, as JSON Schema.")] = False,
) -> None:
    """Show, or change, what a tenant has configured of a toolset.

    With --file the configuration is replaced, with --set fields of it are. Secrets stay unless they are given, and
    are never printed.
    """
    if sum((file is not None, bool(assign), clear, schema)) > 1:
        raise UsageError("Give one of --file, --set, --clear and --schema.")
    if clear:
        change(lambda there: _configs(there, slug, lambda configs, tenant: configs.delete(tenant, name, CLI)))
        typer.echo(f"Took the configuration of {name} away from {slug}.")
        return
    values = parse_file(file) if file is not None else None
    fields = parse_fields(assign or [])

    async def put(configs: Configs, tenant: str) -> ToolsetConfig:
        found = await configs.get(tenant, name)
        whole = values if values is not None else {**found.config, **typed(fields, found.schema)}
        return await configs.put(tenant, name, whole, CLI, found.version)

    if values is not None or fields:
        found = change(lambda there: _configs(there, slug, put))
    else:
        found = ask(lambda there: _configs(there, slug, lambda configs, tenant: configs.get(tenant, name)))
    typer.echo(json.dumps(found.schema if schema else shown(found), indent=2, ensure_ascii=False))


def shown(found: ToolsetConfig) -> dict[str, Any]:
    """A configuration as it is printed: of secrets, that they are set."""
    return {"config": found.config, "secrets": list(found.secrets), "version": found.version}


def parse_file(file: Path) -> dict[str, Any]:
    """The configuration that a file holds.

    Raises:
        UsageError: it cannot be read, or is no JSON object.
    """
    try:
        values = json.loads(read_text(str(file)))
    except ValueError as error:
        raise UsageError(f"{file} is not JSON.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{file} does not hold a JSON object.")
    return values


def parse_fields(assigned: list[str]) -> dict[str, str]:
    """`FIELD=VALUE` arguments, the values as they were given.

    Raises:
        UsageError: one of them has no `=`.
    """
    fields = {}
    for each in assigned:
        field, equals, value = each.partition("=")
        if not equals or not field.strip():
            raise UsageError("--set takes FIELD=VALUE, such as --set region=eu.")
        fields[field.strip()] = value
    return fields


def typed(fields: Mapping[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were meant: text where the schema wants text, and JSON elsewhere.

    Raises:
        UsageError: a file cannot be read, or a secret stands on the command line, which shells and `ps` remember.
    """
    from trunkline.tenants.configs import secret_names

    meant: dict[str, Any] = {}
    for field, value in fields.items():
        if value.startswith("@"):
            meant[field] = read_text(value[1:]).rstrip("\n")
        elif field in secret_names(schema) and value != "null":
            raise UsageError(f"{field} is a secret: write {field}=@FILE, or {field}=@- for the standard input.")
        else:
            meant[field] = _value(value, schema.get("properties", {}).get(field, {}))
    return meant


def read_text(name: str) -> str:
    """The text of a file, `-` being the standard input.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read.") from error


def _value(text: str, field: Mapping[str, Any]) -> Any:
    if text != "null" and any(way.get("type") == "string" for way in (field, *field.get("anyOf", ()))):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _configs(there: Deployment, slug: str, work: Callable[[Configs, str], Awaitable[Result]]) -> Result:
    from trunkline.audit.record import Recorder
    from trunkline.db import Database
    from trunkline.tenants.configs import Configs

    tenant = await there.tenants.get(slug)
    database = Database(there.settings.database_url, process="cli", pool_size=1)
    try:
        return await work(Configs(there.settings, database, there.redis, Recorder(there.settings.root)), tenant.id)
    finally:
        await database.aclose()


def _known_here(configured: Settings) -> set[str]:
    """Names of the servers that can be loaded here; a worker elsewhere may host others."""
    from trunkline.toolsets.catalog import gather

    try:
        return {each.name for each in gather(configured.servers)}
    except StartRefused:
        return set()
