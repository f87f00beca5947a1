"""Figures of all rounds as Markdown and as JSON: median with least and greatest, ratios pair by pair."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import psutil

from bench.phases import Alone, Idle, Load


@dataclass(slots=True)
class Side:
    """All rounds of one server; the n-th of one side was measured next to the n-th of the other."""

    name: str
    load: list[Load] = field(default_factory=list)
    alone: list[Alone] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)

    @property
    def calls_made(self) -> int:
        """Under load and alone, warming up included."""
        load = sum(each.calls + each.warm_up for each in self.load)
        return load + sum(each.calls + each.warm_up for each in self.alone)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    title: str
    figures: Callable[[Side], list[float]]
    digits: int = 0
    target: float | None = None
    """Highest ratio to the SDK's that the project wants."""


LINES = (
    Line("CPU per call under load, us", lambda side: [each.total_us for each in side.load], 0, 0.45),
    Line("... with Postgres, us", lambda side: [sum(each.cpu_us.values()) for each in side.load]),
    Line("memory per idle connection, KiB", lambda side: [each.total_kib for each in side.idle], 1, 0.25),
    Line("... with Postgres, KiB", lambda side: [sum(each.kib.values()) for each in side.idle], 1),
    Line("one session alone, median, ms", lambda side: [each.median_ms for each in side.alone], 2, 2.0),
    Line("one session alone, p99, ms", lambda side: [each.p99_ms for each in side.alone], 2),
    Line("under load, median, ms", lambda side: [each.median_ms for each in side.load], 1),
    Line("under load, p99, ms", lambda side: [each.p99_ms for each in side.load], 1),
    Line("under load, calls a second", lambda side: [each.calls / each.seconds for each in side.load]),
    Line(
        "keeping the idle connections, ms of CPU a second",
        lambda side: [each.cpu_ms_per_second for each in side.idle],
        1,
    ),
)


def spread(values: Sequence[float], digits: int) -> str:
    """`median (least to greatest)`."""
    if not values:
        return ""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratios(base: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Ours over the base's of the same round."""
    return [mine / theirs for theirs, mine in zip(base, ours, strict=True) if theirs > 0]


def table(sides: Sequence[Side]) -> str:
    """A Markdown table; with two sides the second is compared to the first."""
    head = ["", *(side.name for side in sides), *(("ratio", "target") if len(sides) == 2 else ())]
    rows = [head, ["---", *("---:" for _ in head[1:])]]
    for line in LINES:
        figures = [line.figures(side) for side in sides]
        row = [line.title, *(spread(values, line.digits) for values in figures)]
        if len(sides) == 2:
            target = "" if line.target is None else f"at most {line.target:g}"
            row += [spread(ratios(*figures), 2), target]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def roles(sides: Sequence[Side]) -> str:
    """Where CPU and memory went, median by role."""
    rows = ["| process | side | CPU per call, us | memory per idle connection, KiB |", "|---|---|---:|---:|"]
    for side in sides:
        for role in sorted({role for each in side.load for role in each.cpu_us}):
            cpu = [each.cpu_us.get(role, 0.0) for each in side.load]
            kib = [each.kib.get(role, 0.0) for each in side.idle]
            rows.append(f"| {role} | {side.name} | {spread(cpu, 1)} | {spread(kib, 1)} |")
    return "\n".join(rows)


def circumstances(command: str) -> dict[str, Any]:
    """When, with what and on what."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores",
        "versions": {name: _version(name) for name in ("trunkline", "mcp", "uvicorn", "uvloop", "starlette")},
    }


def headline(facts: dict[str, Any]) -> str:
    """The circumstances in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return f"{facts['date']}, `{facts['command']}`, {facts['system']}, Python {facts['python']}, {versions}."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def as_json(sides: Sequence[Side], facts: dict[str, Any]) -> dict[str, Any]:
    """Every round's figures, and the ratios."""
    document: dict[str, Any] = {**facts, "sides": [asdict(side) for side in sides]}
    if len(sides) == 2:
        document["ratios"] = {line.title: ratios(*(line.figures(side) for side in sides)) for line in LINES}
    return document


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
