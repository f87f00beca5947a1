"""The commands put together, and how any of them ends: exit code 1 for failure, 2 for wrong usage, 130 for Ctrl-C."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from trunkline import __version__
from trunkline.cli import (
    audit,
    calls,
    keys,
    members,
    operators,
    parked,
    processes,
    secrets,
    signing,
    tenants,
    toolsets,
    usage,
    users,
)
from trunkline.cli.output import say_error
from trunkline.errors import TrunklineError, UsageError

FAILURE = 1
WRONG_USAGE = 2

app = typer.Typer(
    name="trunkline",
    help="Trunkline hosts MCP servers for many tenants.",
    add_completion=False,
    # rich would cost 0.2 s at every --help, and would show local variables, keys among them, in a traceback.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
processes.register(app)
app.add_typer(tenants.app, name="tenant")
app.add_typer(toolsets.app, name="toolset")
app.add_typer(keys.app, name="key")
app.add_typer(parked.app, name="calls")
app.add_typer(members.app, name="member")
app.add_typer(users.app, name="user")
app.add_typer(operators.app, name="operator")
app.add_typer(operators.codes, name="signup-code")
app.add_typer(signing.app, name="signing")
app.add_typer(secrets.app, name="secrets")
app.add_typer(audit.app, name="audit")
app.command("usage")(usage.usage)
app.command("call")(calls.call)
app.command("permissions")(members.permissions)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trunkline {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Trunkline hosts MCP servers for many tenants."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command that the arguments name, and end the process."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; a person's mistake becomes one sentence, never a traceback."""
    try:
        code = app(args=arguments, prog_name="trunkline", standalone_mode=False)
    except TrunklineError as error:
        say_error(error.message)
        return WRONG_USAGE if isinstance(error, UsageError) else FAILURE
    except typer.TyperException as error:
        return _wrong_usage(error)
    except typer.Abort:
        return FAILURE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads has enough (`| head`); without this, Python complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return code if isinstance(code, int) else 0


def _wrong_usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    sentence = error.format_message()
    if context is None:
        say_error(sentence)
    else:
        say_error(f"{sentence.rstrip('.')}; see '{context.command_path} --help'.")
    return error.exit_code
