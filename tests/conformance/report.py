"""`docs/conformance.md`: what the suite found, by scenario and revision."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.suite import PACKAGE, VERSION, Run
from tests.replicas import REPLICAS

TEXT = f"""# Conformance

What `{PACKAGE}` {VERSION} finds, written by `scripts/conformance` and
not by hand. It runs against {REPLICAS} API pods and {REPLICAS} workers, real processes, through a load balancer
that deals each *request* to the next pod: a session's `initialize`, its stream, its calls and its answers to a tool's
questions all meet different pods.

The server under test is [`tests/conformance/everything.py`](../tests/conformance/everything.py), an ordinary
`MCPServer` that knows nothing of Trunkline, hosted with `--server` and switched on for a public tenant.
`scripts/test` does the same (`tests/conformance/`), and one check that does not hold, a warning included, is a
failure; there is no list of expected failures.

{{totals}}

What a revision requires is what the suite's `--requirements` names, and what it names as pending is run too: HTTP
headers, JSON Schema, hanging up. 2025-06-18 has no such list, so all that applies to it is run. The extension for
tasks is not offered. Every scenario also holds each message against the schema of its revision.

## By scenario

Checks that passed; a dash where the revision has no such scenario.

{{scenarios}}
"""


def written(runs: Sequence[Run]) -> str:
    """The document."""
    totals = table(
        ("revision", "scenarios", "checks passed", "not"),
        [(run.revision, len(run.scenarios), run.passed, len(run.failed)) for run in runs],
    )
    return TEXT.format(totals=totals, scenarios=by_scenario(runs))


def by_scenario(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.scenarios))
    rows = [(f"`{name}`", *(cell(run, name) for run in runs)) for name in names]
    return table(("scenario", *(run.revision for run in runs)), rows)


def cell(run: Run, scenario: str) -> str:
    if scenario not in run.scenarios:
        return "-"
    failed = sum(not check.held for check in run.scenarios[scenario])
    return f"{run.passed_in(scenario)}" + (f", **{failed} not**" if failed else "")


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(str(each) for each in line)} |" for line in lines)
