"""`trunkline user`: people's accounts, for those who run the platform."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trunkline.cli.environment import WHERE, change
from trunkline.cli.output import say_error, shown

app = typer.Typer(help=f"People's accounts. {WHERE}", rich_markup_mode=None)

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The email address of the account.")]


@app.command()
def disable(email: Email) -> None:
    """Let somebody sign in no more.

    Their sign-ins end at once. Their memberships stay, and so do API keys that they issued: revoke those apart.
    """
    change(lambda there: there.users().disable(email))
    typer.echo(f"Disabled user {email}.")


@app.command()
def enable(email: Email) -> None:
    """Let somebody sign in again."""
    change(lambda there: there.users().enable(email))
    typer.echo(f"Enabled user {email}.")


@app.command()
def reset(email: Email) -> None:
    """Print a link with which somebody chooses a new password, once.

    Give it to nobody else. What stands behind the # is the secret for POST /v1/password-resets/accept.
    """
    link, until = change(lambda there: _reset(there, email))
    typer.echo(link)
    say_error(f"It is good until {shown(until)} UTC, once. It is not shown again.")


async def _reset(there: Any, email: str) -> tuple[str, object]:
    secret, until = await there.users().reset(email)
    return f"{there.settings.public_url}/reset#{secret}", until
