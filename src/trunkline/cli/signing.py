"""`trunkline signing`: the keys that sign API keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from trunkline.cli.environment import WHERE, ask, change
from trunkline.cli.output import print_rows, shown
from trunkline.cli.tenants import AsJson

app = typer.Typer(help=f"The keys that sign API keys. {WHERE}", rich_markup_mode=None)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the signing keys, the newest first."""
    records = ask(lambda there: there.signing().list())
    columns = ["kid", "state", "live_keys", "created_at", "not_before", "retired_at"]
    print_rows([asdict(record) for record in records], columns, as_json=as_json)


@app.command()
def rotate(
    ahead: Annotated[
        str, typer.Option(metavar="90s", help="How long all pods know it before it signs: a number and s, m, h or d.")
    ] = "90s",
) -> None:
    """Make a key that signs from now on, or after a while.

    API keys of the one before stay good.
    """
    from trunkline.tenants.key_options import parse_duration

    period = parse_duration(ahead)
    record = change(lambda there: there.signing().rotate(ahead=period))
    typer.echo(f"Made signing key {record.kid}; it signs from {shown(record.not_before)} UTC on.")


@app.command()
def retire(
    kid: Annotated[str, typer.Argument(metavar="KID", help="`trunkline signing list` tells it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even though API keys in use hang on it, which then stop working.")
    ] = False,
) -> None:
    """Accept nothing any more that a key signed."""
    change(lambda there: there.signing().retire(kid, force=force))
    typer.echo(f"Retired signing key {kid}.")
