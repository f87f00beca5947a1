"""Measure Trunkline beside the SDK's own single-process SSE server.

Both serve the same tool to the same client. Rounds alternate between the two, so that whatever else the machine
does meets both; ratios are taken pair by pair. CPU is that of the server processes, the client's is not counted.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
import uvloop

from bench import TOOL, phases, servers
from bench.load import WrongAnswerError
from bench.report import Side, as_json, circumstances, progress, roles, table
from bench.servers import Server

Start = Callable[[], AbstractContextManager[Server]]
Result = TypeVar("Result")
OPEN_FILES = 20_000


def main() -> int:
    options = _options()
    _allow_many_files()
    try:
        sides = _measure(options)
    except (servers.StartError, WrongAnswerError, TimeoutError) as error:
        progress(f"bench: {error or 'a phase took too long'}")
        return 1
    facts = circumstances(" ".join(["scripts/bench", *sys.argv[1:]]))
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    print(f"\n{facts['date']}, `{facts['command']}`, {facts['system']}, Python {facts['python']}, {versions}.")
    load = f"{options.sessions} sessions of {options.calls} calls each, {options.rounds} rounds"
    print(f"Load: {load}; idle: {options.connections} connections, {options.idle_rounds} rounds.")
    print(f"Median (least to greatest).\n\n{table(sides)}\n\n{roles(sides)}")
    if options.json:
        options.json.write_bytes(orjson.dumps(as_json(sides, facts), option=orjson.OPT_INDENT_2))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and calls: under 45 s, wider spread")
    parser.add_argument(
        "--sides",
        choices=("both", "sdk", "trunkline", "control"),
        default="both",
        help="control puts the SDK on both sides: how far from 1 the ratios go by themselves",
    )
    parser.add_argument(
        "--sdk",
        choices=("tuned", "shipped"),
        default="tuned",
        help="the SDK on uvloop without access log, or as MCPServer.run('sse') starts it",
    )
    parser.add_argument(
        "--tool", default=TOOL, help="tool to call on Trunkline's side, taking and giving back `text`"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--idle-rounds", type=int)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--calls", type=int, help="calls of each session in a round")
    parser.add_argument("--connections", type=int, help="idle connections")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    defaults = (2, 1, 50, 400) if options.quick else (5, 3, 150, 1_000)
    for name, value in zip(("rounds", "idle_rounds", "calls", "connections"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _measure(options: argparse.Namespace) -> list[Side]:
    sdk: tuple[str, Start, str] = ("SDK", partial(servers.sdk, options.sdk), TOOL)
    ours: tuple[str, Start, str] = ("Trunkline", partial(servers.trunkline, options.workers), options.tool)
    chosen = {"both": [sdk, ours], "sdk": [sdk], "trunkline": [ours], "control": [sdk, sdk]}[options.sides]
    sides = [Side(name) for name, _, _ in chosen]
    with ExitStack() as stack:
        pairs = [
            (side, stack.enter_context(start()), tool) for side, (_, start, tool) in zip(sides, chosen, strict=True)
        ]
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            # Every other round begins with the other side, so that coming first favours none.
            for side, server, tool in pairs[:: -1 if number % 2 else 1]:
                side.load.append(_run(phases.load(server, tool, options.sessions, options.calls)))
                progress(f"  {side.name}: {side.load[-1].total_us:.0f} us of CPU per call")
                side.alone.append(_run(phases.alone(server, tool, options.calls * 2)))
                progress(f"  {side.name}: {side.alone[-1].median_ms:.2f} ms alone")
    for number in range(options.idle_rounds):
        progress(f"idle round {number + 1} of {options.idle_rounds}")
        for side, (_, start, tool) in zip(sides, chosen, strict=True):
            with start() as server:  # a fresh one: memory given back by connections before would hide the growth
                side.idle.append(_run(phases.idle(server, tool, options.connections)))
            progress(f"  {side.name}: {side.idle[-1].total_kib:.1f} KiB per connection")
    return sides


def _run(phase: Coroutine[Any, Any, Result]) -> Result:
    with _steady():
        return uvloop.run(phase)


@contextmanager
def _steady() -> Iterator[None]:
    """No collection of this process's garbage in the middle of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _allow_many_files() -> None:
    """For this process and the servers it starts: two per connection at times."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


if __name__ == "__main__":
    sys.exit(main())
