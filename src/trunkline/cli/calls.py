"""`trunkline call`: one tool call as a client."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trunkline.errors import UsageError


def call(
    url: Annotated[str, typer.Argument(help="The tenant's URL, ending in /sse or /mcp.")],
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[str, typer.Argument(metavar="[JSON]", help="Arguments, a JSON object.")] = "{}",
    key: Annotated[
        str | None, typer.Option(envvar="TRUNKLINE_API_KEY", show_envvar=True, help="API key, tlk_...")
    ] = None,
) -> None:
    """Call one tool as a client and print its answer.

    Exit code 1 where the tool failed; what it said is then on standard error.
    """
    parsed = parse_arguments(arguments)

    import asyncio
    import logging

    from trunkline.client import call as call_tool

    # The SDK logs what goes wrong, with tracebacks; here the sentence of the error is enough.
    logging.getLogger().addHandler(logging.NullHandler())
    outcome = asyncio.run(call_tool(url, tool, parsed, key.strip() if key and key.strip() else None))
    typer.echo(outcome.text, err=not outcome.ok)
    if not outcome.ok:
        raise typer.Exit(1)


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of a tool from the command line.

    Raises:
        UsageError: the text is not a JSON object.
    """
    import orjson

    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"The arguments are not JSON ({error}); write for example '{{\"a\": 3}}'.") from error
    if not isinstance(parsed, dict):
        raise UsageError("The arguments must be a JSON object; write for example '{\"a\": 3}'.")
    return parsed
