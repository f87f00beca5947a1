"""`trunkline secrets`: what is encrypted at rest."""

from __future__ import annotations

import typer

from trunkline.cli.environment import WHERE, change

app = typer.Typer(help=f"What is encrypted at rest. {WHERE}", rich_markup_mode=None)


@app.callback()
def _commands() -> None:
    """Keep `rewrap` a command of its own."""


@app.command()
def rewrap() -> None:
    """Encrypt everything with TRUNKLINE_SECRET_KEY that another of OTHER_SECRET_KEYS was used for.

    May be repeated; pods may run meanwhile. docs/key-rotation.md has the whole procedure.
    """
    from trunkline.tenants.rewrapping import Rewrapping

    done = change(lambda there: Rewrapping(there.settings, there.database, there.redis).run())
    typer.echo(
        f"Encrypted anew: {done.signing_keys} signing keys, {done.secrets} secrets of toolsets; "
        f"{done.logs} audit logs have a new code."
    )
    if done.unreadable:
        typer.echo(f"{done.unreadable} of them no key opens; they were lost before.", err=True)
        raise typer.Exit(1)
