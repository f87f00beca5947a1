"""What commands print: aligned text for people, JSON for programs, errors as one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import typer


def print_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print one line per row under a heading, or all rows with all they hold as JSON."""
    if as_json:
        print_json(rows)
        return
    table = [[column.upper().replace("_", " ") for column in columns]]
    table += [[shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: object) -> None:
    """Print a value as JSON, a time as ISO 8601 in UTC."""
    typer.echo(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def shown(value: object) -> str:
    """A value as a cell of a table."""
    match value:
        case None | "":
            return "-"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list() | tuple() | set() | frozenset():
            return ",".join(shown(part) for part in value) or "-"
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """`text` on one line, without what would steer a terminal: names and errors may come from others."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def say_error(sentence: str) -> None:
    """Print one sentence to standard error."""
    typer.echo(printable(sentence), err=True)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Iterable):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    return str(value)
