"""Where a process spends its CPU under load: py-spy's samples as a list of lines, and raw for a flame graph."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import uvloop

from bench import TOOL, TRANSPORTS, phases, servers
from bench.report import progress


def main(arguments: list[str]) -> int:
    """Run the load on one process and print its busiest functions."""
    parser = argparse.ArgumentParser(prog="scripts/bench profile", description=__doc__)
    parser.add_argument("what", choices=("api", "worker", "sdk"))
    parser.add_argument("--transport", choices=TRANSPORTS, default="sse")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--tool", default=TOOL)
    parser.add_argument("--top", type=int, default=40, help="lines in each list")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="keep the samples, as collapsed stacks")
    options = parser.parse_args(arguments)
    py_spy = shutil.which("py-spy")
    if py_spy is None:
        progress("bench: profiling needs py-spy on the PATH; install it with: pip install py-spy")
        return 1
    with (
        servers.sdk(transport=options.transport) if options.what == "sdk" else servers.trunkline() as server,
        tempfile.TemporaryDirectory(prefix="tl-bench-") as folder,
    ):
        raw = options.raw or Path(folder, "samples")
        command = [
            py_spy,
            "record",
            "--format",
            "raw",
            "--function",
            "--rate",
            "400",
            "--duration",
            str(options.seconds),
        ]
        command += ["--output", str(raw), "--pid", str(server.process_of(options.what).pid)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
            while sampler.poll() is None:
                uvloop.run(phases.load(server, options.transport, options.tool, options.sessions, 100, settle=0))
        _show(raw.read_text().splitlines(), options.top)
    return 0


def _show(stacks: list[str], top: int) -> None:
    """Share of the samples in which a function itself was running, and in which it was anywhere on the stack."""
    own: Counter[str] = Counter()
    anywhere: Counter[str] = Counter()
    for stack in stacks:
        frames, _, count = stack.rpartition(" ")
        names = frames.split(";")
        own[names[-1]] += int(count)
        for name in set(names):
            anywhere[name] += int(count)
    total = own.total() or 1
    for title, counts in (("itself", own), ("with what it calls", anywhere)):
        print(f"\n{title}, per cent of {total} samples")
        for name, samples in counts.most_common(top):
            print(f"{samples / total * 100:6.1f}  {name}")
