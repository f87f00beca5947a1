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

from bench import TRANSPORTS
from bench.phases import Alone, Idle, Load, Opening


@dataclass(slots=True)
class Side:
    """All rounds of one server over one transport; the n-th was measured next to the n-th of the other side."""

    name: str
    transport: str
    load: list[Load] = field(default_factory=list)
    alone: list[Alone] = field(default_factory=list)
    opening: list[Opening] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)

    @property
    def calls_made(self) -> int:
        """Under load and alone, warming up included."""
        load = sum(each.calls + each.warm_up for each in self.load)
        return load + sum(each.calls + each.warm_up for each in self.alone)

    @property
    def initialize_in_calls(self) -> list[float]:
        """What `initialize` costs, as a multiple of a call of the same round."""
        return [opening.initialize_us / load.total_us for opening, load in zip(self.opening, self.load, strict=False)]

    @property
    def opening_in_calls(self) -> list[float]:
        """What opening a session costs, likewise."""
        return [opening.total_us / load.total_us for opening, load in zip(self.opening, self.load, strict=False)]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    title: str
    figures: Callable[[Side], list[float]]
    digits: int = 0
    targets: dict[str, float] = field(default_factory=dict)
    """Highest ratio to the SDK's that the project wants, by transport."""
    own_target: float | None = None
    """Highest figure of its own that the project wants."""

    def target(self, transport: str) -> str:
        """What the project wants, in words."""
        if self.own_target is not None:
            return f"itself at most {self.own_target:g}"
        return f"at most {self.targets[transport]:g}" if transport in self.targets else ""


LINES = (
    Line(
        "CPU per call under load, us",
        lambda side: [each.total_us for each in side.load],
        0,
        {"sse": 0.45, "http": 0.5, "modern": 0.5},
    ),
    Line("... with Postgres, us", lambda side: [sum(each.cpu_us.values()) for each in side.load]),
    Line("CPU per initialize, us", lambda side: [each.initialize_us for each in side.opening]),
    Line("... as a multiple of a call", lambda side: side.initialize_in_calls, 2, own_target=1.5),
    Line("CPU per session opened, us", lambda side: [each.total_us for each in side.opening]),
    Line("... as a multiple of a call", lambda side: side.opening_in_calls, 2),
    Line("memory per idle connection, KiB", lambda side: [each.total_kib for each in side.idle], 1, {"sse": 0.25}),
    Line("... with Postgres, KiB", lambda side: [sum(each.kib.values()) for each in side.idle], 1),
    Line("one session alone, median, ms", lambda side: [each.median_ms for each in side.alone], 2, {"sse": 2.0}),
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


def tables(pairs: Sequence[Sequence[Side]]) -> str:
    """Two Markdown tables for each transport, under its title."""
    return "\n\n".join(f"**{TRANSPORTS[sides[0].transport]}**\n\n{table(sides)}\n\n{roles(sides)}" for sides in pairs)


def table(sides: Sequence[Side]) -> str:
    """A Markdown table of one transport; with two sides the second is compared to the first."""
    head = ["", *(side.name for side in sides), *(("ratio", "target") if len(sides) == 2 else ())]
    rows = [head, ["---", *("---:" for _ in head[1:])]]
    for line in LINES:
        figures = [line.figures(side) for side in sides]
        if not any(figures):
            continue
        row = [line.title, *(spread(values, line.digits) for values in figures)]
        if len(sides) == 2:
            row += [spread(ratios(*figures), 2), line.target(sides[0].transport)]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def roles(sides: Sequence[Side]) -> str:
    """Where CPU and memory went, median by role."""
    held = any(side.idle for side in sides)
    rows = ["| process | side | CPU per call, us |", "|---|---|---:|"]
    if held:
        rows = [f"{rows[0]} memory per idle connection, KiB |", f"{rows[1]}---:|"]
    for side in sides:
        for role in sorted({role for each in side.load for role in each.cpu_us}):
            row = f"| {role} | {side.name} | {spread([each.cpu_us.get(role, 0.0) for each in side.load], 1)} |"
            if held:
                row += f" {spread([each.kib.get(role, 0.0) for each in side.idle], 1)} |"
            rows.append(row)
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


def as_json(pairs: Sequence[Sequence[Side]], facts: dict[str, Any]) -> dict[str, Any]:
    """Every round's figures, and the ratios, by transport."""
    document: dict[str, Any] = {**facts, "transports": {}}
    for sides in pairs:
        found: dict[str, Any] = {"sides": [asdict(side) for side in sides]}
        if len(sides) == 2:
            found["ratios"] = {line.title: ratios(*(line.figures(side) for side in sides)) for line in LINES}
        document["transports"][sides[0].transport] = found
    return document


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
