"""The scenario's side of `faults.doomed`: workers that come cheap and die where they are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

from faults import EFFECTS_VARIABLE, ROOT, SERVER
from faults.deployment import Rig
from faults.doomed import NONE
from faults.pods import PATIENCE, environment_of, until
from faults.steps import Step


class Nursery:
    """Forks workers, each with one slot."""

    def __init__(self, process: subprocess.Popen[str], log: Path, deaths: Path) -> None:
        self._process = process
        self._log = log
        self._deaths = deaths

    async def bear(self, *steps: Step | None) -> list[int]:
        """Workers that die at these steps, None for one that lives; their process ids, once all claim calls."""
        pids = await asyncio.to_thread(self._fork, steps)
        await until(lambda: self._working(pids), PATIENCE, f"workers to be ready; their log is {self._log}")
        return pids

    def deaths(self) -> dict[str, Step]:
        """Of each call, by its token, at which step its worker died."""
        if not self._deaths.exists():
            return {}
        lines = (line.split(" ", 1) for line in self._deaths.read_text().splitlines())
        return {token: Step(step) for token, step in lines}

    async def stop(self, pid: int) -> None:
        """Have one that lives drain and end."""
        os.kill(pid, SIGTERM)
        await self.gone([pid])

    async def gone(self, pids: list[int]) -> None:
        """Wait until these have ended."""
        await until(lambda: not any(_lives(pid) for pid in pids), PATIENCE, f"workers {pids} to end")

    def _fork(self, steps: tuple[Step | None, ...]) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pids = []
        for step in steps:
            self._process.stdin.write(f"{step or NONE}\n")
            self._process.stdin.flush()
            pids.append(int(self._process.stdout.readline()))
        return pids

    def _working(self, pids: list[int]) -> bool:
        text = self._log.read_text(errors="replace")
        started = {
            line.partition('"pod":"')[2].partition('"')[0] for line in text.splitlines() if '"working"' in line
        }
        return {int(pod.rpartition("-")[2]) for pod in started if pod}.issuperset(pids)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def nursery(rig: Rig) -> Iterator[Nursery]:
    """A nursery for the rig's workers, which end with the block."""
    log, deaths = rig.directory / "doomed.log", rig.directory / "deaths"
    settings = rig.settings.model_copy(update={"concurrency": 1, "servers": (SERVER,)})
    # `model_copy` tells what was set, and so does the environment that is made of it.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    environment = variables | environment_of(settings) | {EFFECTS_VARIABLE: rig.effects.address, "PYTHONPATH": path}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "faults.doomed", str(deaths)],
            env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
        )  # fmt: skip
    try:
        yield Nursery(process, log, deaths)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # by which it ends its workers, and itself
        process.wait(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()
