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
    rows = ["| scenario | done | what came of it | oracles | s | |", "|---|---|---|---|---:|---|"]
    for each in outcomes:
        counts = ", ".join(f"{name}: {count}" for name, count in each.figures.counts.items())
        findings = "; ".join(
            f"{'' if finding.holds else '**broken** '}{finding.name}: {finding.figure}" for finding in each.findings
        )
        verdict = "**broken**" if each.failed else "holds"
        cells = (each.scenario.title, each.figures.done, counts, findings, f"{each.seconds:.0f}", verdict)
        rows.append(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |")
    return "\n".join(rows)
