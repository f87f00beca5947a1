"""`dev`, `api`, `worker`, `migrate` and `settings`: what runs, and on which configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli.output import print_json, say_error
from trunkline.errors import StartRefused

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all, as in a container.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="MODULE:OBJECT", help="MCP server object to host; may be given several times."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (dev, api, worker, migrate, settings):
        app.command()(command)


def dev(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Where databases, logs and dev.json are kept.")] = Path(
        ".trunkline"
    ),
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes; 0 starts none.")] = 1,
    server: Servers = None,
) -> None:
    """Run everything on this machine, with a demo tenant.

    That is Postgres, Redis, an API pod, workers, and a key to call with. TRUNKLINE_DATABASE_URL and
    TRUNKLINE_REDIS_URL, where set, are used instead of stores of its own. When ready, DIR/dev.json tells programs
    what the terminal tells people.
    """
    from trunkline.dev.run import dev as run_dev

    run_dev(host, port, data, workers, tuple(server or ()))


def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run one API pod.

    On SIGTERM or Ctrl-C it sends its clients to other pods and ends.
    """
    from trunkline.settings import load_settings

    configured = load_settings()

    from trunkline.api.run import serve

    serve(configured, host, port)


def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Calls at once; TRUNKLINE_CONCURRENCY by default.")
    ] = None,
    server: Servers = None,
) -> None:
    """Run one worker pod.

    On SIGTERM or Ctrl-C it finishes what it has begun and ends. Servers given here are hosted besides those of
    TRUNKLINE_SERVERS.
    """
    from trunkline.settings import load_settings

    overrides: dict[str, object] = {} if concurrency is None else {"concurrency": concurrency}
    configured = load_settings(**overrides)
    if server:
        overrides["servers"] = tuple(dict.fromkeys((*configured.servers, *server)))
        configured = load_settings(**overrides)

    import asyncio

    from trunkline.worker.run import work

    try:
        work(configured)
    except asyncio.CancelledError:  # by a second signal: calls were left to the sweep
        raise typer.Exit(1) from None


def migrate() -> None:
    """Bring the database to the newest schema.

    Safe from several pods at once, and harmless when it is there.
    """
    from trunkline.settings import load_settings

    configured = load_settings()

    from trunkline import logs, schema

    logs.configure(configured, "migrate")
    owner = configured.migration_database_url or configured.database_url
    schema.migrate(owner, used_by=configured.database_url)
    typer.echo("The database has the newest schema.")


def settings(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print every setting, with its value here and its default.

    Secrets are masked.
    """
    from trunkline.settings import load_settings, with_files

    rows = setting_rows(with_files(os.environ))
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            origin = "" if row["value"] == row["default"] else f"  (default: {row['default'] or 'empty'})"
            typer.echo(f"{row['name']}={row['value']}{origin}\n    {row['description']}")
    try:
        load_settings()
    except StartRefused as error:
        say_error(f"With these settings no api or worker would start: {error.message}")


def setting_rows(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each setting as name, value, default and description; malformed values are shown as they are."""
    from pydantic import SecretStr

    from trunkline.logs import redact
    from trunkline.settings import Settings

    rows = []
    for field, info in Settings.model_fields.items():
        name = f"TRUNKLINE_{field.upper()}"
        secret = isinstance(info.default, SecretStr) or field == "other_secret_keys"
        default = "" if secret else _shown(info.default)
        value = environment.get(name, default)
        if secret:
            value = "********" if value else ""
        rows.append({"name": name, "value": redact(value), "default": default, "description": info.description or ""})
    return rows


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default)
