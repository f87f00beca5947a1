"""The table of a run, for the terminal and for `docs/reliability.md`."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime

import psutil

from faults.scenarios import Outcome
from trunkline import __version__


def headline(command: str) -> str:
    """When, with what and on what."""
    machine = f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores"
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{now}, `{command}`, Trunkline {__version__}, Python {platform.python_version()}, {machine}."


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, a row for each scenario."""
    rows = ["| scenario | done | what came of it | held | s |", "|---|---|---|---|---:|"]
    for each in outcomes:
        counts = ", ".join(f"{name}: {count}" for name, count in each.figures.counts.items())
        cells = (each.scenario.title, each.figures.done, counts, _held(each), f"{each.seconds:.0f}")
        rows.append(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |")
    return "\n".join(rows)


def _held(outcome: Outcome) -> str:
    """What the scenario asked for, and the oracles: in a word where all hold, otherwise each that is broken."""
    own = len(outcome.figures.findings)
    asked = [finding for finding in outcome.findings[:own] if finding.holds]
    broken = [f"**broken: {finding.name}: {finding.figure}**" for finding in outcome.failed]
    told = [f"{finding.name}: {finding.figure}" for finding in asked]
    oracles = outcome.findings[own:]
    if oracles and all(finding.holds for finding in oracles):
        told.append(f"all {len(oracles)} oracles")
    return "; ".join((*broken, *told))
