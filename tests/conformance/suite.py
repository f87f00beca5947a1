"""Runs the conformance suite against a URL and reads what it found."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.node.programs import HERE, program

PACKAGE = "@modelcontextprotocol/conformance"
VERSION = json.loads((HERE / "package.json").read_text())["dependencies"][PACKAGE]
LONGEST = 120.0
"""Seconds that a run may take; it takes about four."""

SELECTIONS = {
    "2025-06-18": ["--spec-version", "2025-06-18"],  # with the frozen lists of later revisions came none for this one
    "2025-11-25": ["--requirements", "2025-11-25"],
    "2026-07-28": ["--requirements", "2026-07-28"],
}
"""For each revision, what of the suite is run: all that the revision requires, and what waits to be required."""
EXTENSION = "tasks-"
"""Scenarios of an extension of the protocol that nobody has to offer, and the server under test does not."""

OPTIONAL = {
    "server-session-id-visible-ascii",
    "server-session-lifecycle-skipped",
    "server-sse-content-type",
    "server-sse-disconnect-resume",
}
"""Checks that but remark upon a server without sessions, or without streams to resume: this one must have both."""


@dataclass(frozen=True)
class Check:
    """One thing that the suite looked at."""

    id: str
    status: str
    said: str

    @property
    def held(self) -> bool:
        """Whether it was as it must be and as it should be, or was only remarked upon."""
        return self.status == "SUCCESS" or (self.status == "INFO" and self.id not in OPTIONAL)


@dataclass(frozen=True)
class Run:
    """What a run of one revision found, by scenario."""

    revision: str
    scenarios: dict[str, list[Check]]

    @property
    def passed(self) -> int:
        return sum(self.passed_in(scenario) for scenario in self.scenarios)

    def passed_in(self, scenario: str) -> int:
        return sum(check.status == "SUCCESS" for check in self.scenarios[scenario])

    @property
    def failed(self) -> list[str]:
        """A line for each check that did not hold; a warning is one too, and so is a check that was skipped."""
        return [
            f"{scenario}: {check.status} {check.id}: {check.said}"
            for scenario, checks in self.scenarios.items()
            for check in checks
            if not check.held
        ]


async def run(revision: str, url: str, results: Path) -> Run:
    """Run the suite's scenarios for a revision against the server at `url`; `results` is where it writes, and empty.

    Raises:
        AssertionError: it ended before it had run all of them.
    """
    arguments = ["--url", url, *SELECTIONS[revision], "--output-dir", str(results)]
    if revision == "2025-06-18":
        arguments += ["--suite", "all"]
    said = await _suite("server", *arguments)
    found = _read(results)
    wanted = await scenarios(revision)
    assert sorted(found) == sorted(wanted), said
    return Run(revision, {name: found[name] for name in wanted})


async def scenarios(revision: str) -> list[str]:
    """The scenarios of a revision that are run, in the suite's own order."""
    arguments = SELECTIONS[revision]
    said = await _suite("list", *(["--server"] if "--spec-version" in arguments else []), *arguments)
    listed = re.search(r"^Server scenarios.*:\n((?: +- .+\n)+)", said, re.MULTILINE)
    assert listed is not None, said
    names = re.findall(r"^ +- (\S+)", listed[1], re.MULTILINE)
    waiting = re.findall(r"^ +- (\S+) \[server\]$", said, re.MULTILINE)
    return [name for name in (*names, *waiting) if not name.startswith(EXTENSION)]


async def _suite(*arguments: str) -> str:
    command = [*program(PACKAGE, "dist/index.js"), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(LONGEST):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode(errors="replace")


def _read(results: Path) -> dict[str, list[Check]]:
    found = {}
    for file in results.glob("server-*/checks.json"):
        name = re.fullmatch(r"server-(.+?)-\d{4}-\d\d-\d\dT.*", file.parent.name)
        assert name is not None, file
        if not name[1].startswith(EXTENSION):
            found[name[1]] = [_check(each) for each in json.loads(file.read_text())]
    return found


def _check(written: dict[str, Any]) -> Check:
    return Check(written["id"], written["status"], written.get("errorMessage") or written["description"])
