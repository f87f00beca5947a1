"""Measure Trunkline beside the SDK's own single-process server, over each transport.

Both serve the same tool to the same client. Rounds alternate between the two, so that whatever else the machine
does meets both; ratios are taken pair by pair. CPU is that of the server processes, the client's is not counted.
`scripts/bench profile --help` shows where it goes, `scripts/bench keys` what checking a key costs.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
import uvloop

from bench import TOOL, TOOL_ONCE, TRANSPORTS, checks, keys, phases, profile, report, sdk_server, servers
from bench.report import progress
from bench.servers import Server
from bench.wire import WrongAnswerError

Result = TypeVar("Result")
OPEN_FILES = 20_000


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of the comparison: which tool is called, how it is started for a transport, and what was measured."""

    tool: str
    start: Callable[[str], AbstractContextManager[Server]]
    sides: dict[str, report.Side]
    """By transport."""

    @classmethod
    def make(
        cls, name: str, tool: str, start: Callable[[str], AbstractContextManager[Server]], transports: Sequence[str]
    ) -> Contender:
        """One that has measured nothing yet."""
        return cls(tool, start, {transport: report.Side(name, transport) for transport in transports})


def main() -> int:
    _allow_many_files()
    try:
        if sys.argv[1:2] == ["profile"]:
            return profile.main(sys.argv[2:])
        if sys.argv[1:2] == ["keys"]:
            return keys.main(sys.argv[2:])
        return _compare(_options())
    except (servers.StartError, WrongAnswerError, checks.SwitchedOffError, TimeoutError) as error:
        progress(f"bench: {str(error) or 'a phase took too long'}")
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer rounds and calls: under 90 s, wider spread")
    add(
        "--sides",
        choices=("both", "sdk", "trunkline", "control"),
        default="both",
        help="control puts the SDK on both sides: how far from 1 the ratios go by themselves",
    )
    add(
        "--sdk",
        choices=sdk_server.VARIANTS,
        default="tuned",
        help="the SDK on uvloop without access log; the same without streams where it has a choice; or as "
        "MCPServer.run() starts it",
    )
    add(
        "--transport",
        choices=TRANSPORTS,
        action="append",
        dest="transports",
        help="measure this one alone; may be repeated",
    )
    add("--tool", default=TOOL, help=f"tool to call on Trunkline's side, such as {TOOL_ONCE}")
    add("--workers", type=int, default=1, help="worker processes of Trunkline")
    add("--rounds", type=int, help="pairs of load and of latency")
    add("--idle-rounds", type=int, help="pairs of fresh servers whose memory is measured")
    add("--sessions", type=int, default=64, help="sessions that call at once")
    add("--calls", type=int, help="calls of each session in a round")
    add("--connections", type=int, help="idle connections")
    add("--json", type=Path, metavar="FILE", help="where to write the figures of every round")
    options = parser.parse_args()
    options.transports = [each for each in TRANSPORTS if each in (options.transports or TRANSPORTS)]
    defaults = (2, 1, 40, 400) if options.quick else (7, 3, 100, 1_000)
    for name, value in zip(("rounds", "idle_rounds", "calls", "connections"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _compare(options: argparse.Namespace) -> int:
    contenders = _contenders(options)
    proof = _calls(contenders, options)
    _idle(contenders, options)
    pairs = [[contender.sides[transport] for contender in contenders] for transport in options.transports]
    facts = report.circumstances(" ".join(["scripts/bench", *sys.argv[1:]]))
    print(f"\n{report.headline(facts)}\n")
    print(f"{options.sessions} sessions of {options.calls} calls each, {options.rounds} rounds;")
    print(f"{options.connections} idle connections, {options.idle_rounds} rounds. {proof}")
    print(f"Median (least to greatest).\n\n{report.tables(pairs)}")
    if options.json:
        options.json.write_bytes(orjson.dumps(report.as_json(pairs, facts), option=orjson.OPT_INDENT_2))
    return 0


def _contenders(options: argparse.Namespace) -> list[Contender]:
    def sdk() -> Contender:
        return Contender.make("SDK", TOOL, partial(servers.sdk, options.sdk), options.transports)

    def ours() -> Contender:
        # One and the same server for all transports.
        return Contender.make(
            "Trunkline", options.tool, lambda _: servers.trunkline(options.workers), options.transports
        )

    chosen = {"both": (sdk, ours), "sdk": (sdk,), "trunkline": (ours,), "control": (sdk, sdk)}[options.sides]
    return [make() for make in chosen]


class _Running:
    """The servers that a contender needs for its transports, each started once."""

    def __init__(self, contender: Contender, stack: ExitStack) -> None:
        self.contender = contender
        self.servers: dict[str, Server] = {}
        for transport in contender.sides:
            if transport not in self.servers:
                server = stack.enter_context(contender.start(transport))
                self.servers.update(dict.fromkeys(server.urls, server))


def _calls(contenders: Sequence[Contender], options: argparse.Namespace) -> str:
    """Load, latency and opening, side by side on the same servers; returns the proof that ours did all its work."""
    proof = ""
    with ExitStack() as stack:
        running = [_Running(each, stack) for each in contenders]
        for number in range(options.rounds):
            for transport in options.transports:
                progress(f"round {number + 1} of {options.rounds}, {transport}")
                # Every other round begins with the other side, so that coming first favours none.
                for each in running[:: -1 if number % 2 else 1]:
                    _round(each.contender, transport, each.servers[transport], options)
        for each in running:
            server = each.servers[options.transports[0]]
            if server.name == "trunkline":
                made = sum(side.calls_made for side in each.contender.sides.values())
                proof = checks.everything_is_on(server, made, each.contender.tool)
    return proof


def _round(contender: Contender, transport: str, server: Server, options: argparse.Namespace) -> None:
    side = contender.sides[transport]
    side.load.append(_run(phases.load(server, transport, contender.tool, options.sessions, options.calls)))
    progress(f"  {side.name}: {side.load[-1].total_us:.0f} us of CPU per call")
    side.alone.append(_run(phases.alone(server, transport, contender.tool, options.calls * 3)))
    progress(f"  {side.name}: {side.alone[-1].median_ms:.2f} ms alone")
    if transport == "http":
        side.opening.append(_run(phases.opening(server, options.sessions, max(1, options.calls // 5))))
        progress(f"  {side.name}: {side.opening[-1].total_us:.0f} us of CPU per session opened")


def _idle(contenders: Sequence[Contender], options: argparse.Namespace) -> None:
    """Memory, each time of a fresh server: room that earlier connections gave back would hide the growth."""
    for number in range(options.idle_rounds):
        for transport in options.transports:
            if transport == "modern":  # it holds no connection that waits for nothing
                continue
            progress(f"idle round {number + 1} of {options.idle_rounds}, {transport}")
            for each in contenders:
                with each.start(transport) as server:
                    measured = _run(phases.idle(server, transport, each.tool, options.connections))
                each.sides[transport].idle.append(measured)
                progress(f"  {each.sides[transport].name}: {measured.total_kib:.1f} KiB per connection")


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
