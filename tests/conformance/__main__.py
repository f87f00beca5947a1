"""Runs the suite for every revision and writes what it found; `scripts/conformance`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.conformance import report, suite
from tests.node.programs import missing
from tests.replicas import replicas
from tests.stores import TestStores, open_directory

from trunkline.dev.data import DataDirectory
from trunkline.dev.stores import running_stores

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("--url", help="a server that runs already; then nothing is started, and nothing written")
    parser.add_argument(
        "--results", type=Path, help="directory for the suite's own results, each revision in its own"
    )
    parser.add_argument("revision", nargs="*", help=f"of {', '.join(suite.SELECTIONS)}; all, if none is named")
    arguments = parser.parse_args()
    if missing():
        parser.exit(1, f"{missing()}\n")
    revisions = arguments.revision or list(suite.SELECTIONS)
    if unknown := set(revisions) - set(suite.SELECTIONS):
        parser.error(f"there is no revision {', '.join(sorted(unknown))}")
    with contextlib.ExitStack() as stack:
        url = arguments.url or stack.enter_context(deployed())
        results = arguments.results or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = [asyncio.run(suite.run(each, url, results / each)) for each in revisions]
    for run in runs:
        found = f"{run.revision}: {len(run.scenarios)} scenarios, {run.passed} checks passed, {len(run.failed)} not"
        sys.stdout.write("".join(f"{line}\n" for line in (found, *(f"  {line}" for line in run.failed))))
    if not arguments.url and not arguments.revision:
        DOCUMENT.write_text(report.written(runs))
    return int(any(run.failed for run in runs))


@contextlib.contextmanager
def deployed() -> Iterator[str]:
    """Stores and replicas of one's own; the URL of the tenant."""
    with open_directory() as directory:
        data = DataDirectory(directory)
        with data.locked(), running_stores(data, durable=False) as running:
            stores = TestStores(running.database_url, running.redis_url, uuid.uuid4().hex[:8])
            stores.make_template()
            with replicas(stores, "tests.conformance.everything:server", "everything", "public") as made:
                yield made.url("mcp")


if __name__ == "__main__":
    sys.exit(main())
