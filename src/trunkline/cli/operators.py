"""`trunkline operator` and `trunkline signup-code`: who runs the platform, and whom they let sign up."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from trunkline.cli.environment import WHERE, ask, change
from trunkline.cli.output import print_rows, say_error, shown
from trunkline.cli.tenants import AsJson

app = typer.Typer(help=f"Operators of the deployment. {WHERE}", rich_markup_mode=None)
codes = typer.Typer(help=f"Codes that let people sign up. {WHERE}", rich_markup_mode=None)

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The email address, which names the operator.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking.")
]


@app.command()
def create(
    email: Email,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    password_stdin: PasswordStdin = False,
) -> None:
    """Make an operator, who signs in at /v1/operator/sessions.

    There is none from the start. The password is asked for twice, and shown nowhere.
    """
    chosen = _password(password_stdin)
    made = change(lambda there: there.operators().create(email, name, chosen))
    typer.echo(f"Made operator {made.email}.")


@app.command("list")
def list_operators(as_json: AsJson = False) -> None:
    """List all operators."""
    found = ask(lambda there: there.operators().everyone())
    rows = [{**asdict(each), "state": "disabled" if each.disabled_at else "active"} for each in found]
    print_rows(rows, ["email", "name", "state", "created_at"], as_json=as_json)


@app.command()
def disable(email: Email) -> None:
    """Let an operator sign in no more.

    Their sign-ins end at once; what they did stays in the audit log.
    """
    change(lambda there: there.operators().disable(email))
    typer.echo(f"Disabled operator {email}.")


@app.command()
def password(email: Email, password_stdin: PasswordStdin = False) -> None:
    """Give an operator a new password; their sign-ins end at once.

    The password is asked for twice, and shown nowhere.
    """
    chosen = _password(password_stdin)
    change(lambda there: there.operators().set_password(email, chosen))
    typer.echo(f"Changed the password of operator {email}.")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("Password (12 characters or more)", hide_input=True, confirmation_prompt=True))


@codes.callback()
def _group() -> None:
    """Keep `create` a command of its own, though it is the only one."""


@codes.command("create")
def create_code(
    email: Annotated[str | None, typer.Option(help="Only whoever has this address can use it.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the code alone.")] = False,
) -> None:
    """Make a code with which somebody signs up once, where TRUNKLINE_SIGNUP is `invite`.

    It is shown this once and stored nowhere.
    """
    code, made = change(lambda there: _code(there, email))
    typer.echo(code)
    if not quiet:
        say_error(f"It is good until {shown(made.expires_at)} UTC, once. It is not shown again.")


async def _code(there: Any, email: str | None) -> Any:
    return await there.operators().create_code(email)
