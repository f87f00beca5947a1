"""Try what Trunkline promises of answers: kill, stop, cut and restart everything, and look at the books afterwards.

Each scenario runs on a deployment of its own: Postgres, Redis, API pods, workers, and nginx where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import pkgutil
import secrets
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import faults
from faults import report
from faults.ledger import TRANSPORTS, Transport
from faults.pods import ScenarioError
from faults.scenarios import Outcome, carry_out, registered
from trunkline.errors import TrunklineError

_SCENARIOS = (
    "workers", "apis", "redis", "failover", "postgres", "deploys", "questions", "flood", "readers", "fuzz", "model",
)  # fmt: skip
"""Modules that register scenarios, in the order of the table."""


def main() -> int:
    load_scenarios()
    options = _options()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    unknown = [name for name in options.names if name not in registered]
    if unknown:
        print(f"There is no scenario {unknown[0]!r}; there are: {', '.join(registered)}.", file=sys.stderr)
        return 2
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    outcomes: list[Outcome] = []
    not_done: dict[str, str] = {}
    for name in options.names or registered:
        try:
            outcomes.append(_carry_out(name, seed, options.transport or TRANSPORTS, full=options.full))
            print(outcomes[-1], flush=True)
        except (ScenarioError, TrunklineError) as error:
            not_done[name] = str(error)
        except Exception as error:  # noqa: BLE001 - one that breaks down must not take the others with it
            traceback.print_exc()
            not_done[name] = repr(error)
        if name in not_done:
            print(f"{name} (seed {seed}) could not be carried out: {not_done[name]}", flush=True)
    if options.markdown:
        command = shlex.join(["scripts/faults", *sys.argv[1:]])
        lines = [f"{report.headline(command)} Seed {seed}.", "", report.table(outcomes)]
        lines += [f"\nNot carried out: {name}: {why}" for name, why in not_done.items()]
        options.markdown.write_text("\n".join(lines) + "\n")
    failed = [each for each in outcomes if each.failed]
    print(f"\n{len(outcomes) - len(failed)} hold, {len(failed)} broken, {len(not_done)} not carried out.")
    return 1 if failed or not_done else 0


def _carry_out(name: str, seed: int, transports: Sequence[Transport], *, full: bool) -> Outcome:
    chosen = registered[name]
    directory = Path(tempfile.mkdtemp(prefix=f"tl-{name}-"))
    directory.chmod(0o711)
    print(f"{name}: logs are in {directory}, until it has held", file=sys.stderr, flush=True)
    size = chosen.full if full else chosen.small
    outcome = asyncio.run(carry_out(chosen, size, seed, directory, transports=transports))
    if not outcome.failed:
        shutil.rmtree(directory)
    return outcome


def load_scenarios() -> None:
    """Import the modules that register scenarios."""
    there = {module.name for module in pkgutil.iter_modules(faults.__path__)}
    for name in _SCENARIOS:
        if name in there:
            importlib.import_module(f"faults.{name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(registered)}; all if none is given")
    parser.add_argument(
        "--full", action="store_true", help="the full sizes: hours, where the small ones take minutes"
    )
    parser.add_argument(
        "--transport", action="append", choices=TRANSPORTS, help="what the clients speak; given several times or not "
        "at all they are divided: HTTP+SSE, streamable HTTP with sessions, and the stateless revision",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="of everything that happens by chance; printed, so it can be given")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where to write the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
