"""`trunkline api` and `trunkline worker` as processes of their own, which scenarios stop, kill and start anew."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import Any

import psutil
from pydantic import SecretStr

from faults import ROOT
from trunkline.dev.process import spawn
from trunkline.settings import Settings

PATIENCE = 30.0
"""Seconds that a process gets to start or to end."""
_LOOK = 0.02


class ScenarioError(Exception):
    """The scenario could not be carried out; says nothing of the promises."""


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables with which a process has these settings."""
    variables = {}
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        values = value if isinstance(value, tuple) else (value,)
        told = (each.get_secret_value() if isinstance(each, SecretStr) else str(each) for each in values)
        variables[f"TRUNKLINE_{name.upper()}"] = ",".join(told)
    return variables


Question = Callable[[], object] | Callable[[], Awaitable[object]]


async def until(holds: Question, seconds: float = PATIENCE, what: str = "") -> None:
    """Wait until it is so; asked again and again, in a thread where it does not wait itself.

    Raises:
        ScenarioError: it was not within `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            while not await _ask(holds):
                await asyncio.sleep(_LOOK)
    except TimeoutError as error:
        raise ScenarioError(f"Not within {seconds:.0f} s: {what or 'what was waited for'}.") from error


async def _ask(holds: Question) -> object:
    answer = await asyncio.to_thread(holds)
    return await answer if inspect.isawaitable(answer) else answer


@dataclass
class Pod:
    """One process; started anew in the same place it is another `Pod`."""

    kind: str
    """`api` or `worker`."""
    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    """Of an API pod, without a path."""
    restart: Callable[[], Pod] | None = field(default=None, repr=False)
    """Starts one like it, at the same port."""

    @property
    def pid(self) -> int:
        """Its process id, by which it is signalled."""
        return self.process.pid

    @property
    def port(self) -> int:
        """Where an API pod listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def signal(self, number: Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does, and wait until the kernel has taken it away."""
        self.process.kill()
        self.process.wait(PATIENCE)

    async def stop(self, seconds: float = PATIENCE + 10) -> int:
        """Drain and end it; its exit code."""
        self.signal(SIGTERM)
        return await self.ended(seconds)

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; its exit code."""
        await until(lambda: not self.running, seconds, f"the end of {self.kind} {self.pid}")
        return int(self.process.returncode)

    async def ready(self, workers: int = 0) -> None:
        """Wait until it takes calls: an API pod that sees so many workers, a worker that claims."""
        what = f"{self.kind} {self.pid} to be ready; its log is {self.log}"
        await until(lambda: self._is_ready(workers), PATIENCE, what)

    def _is_ready(self, workers: int) -> bool:
        if not self.running:
            raise ScenarioError(f"{self.kind} {self.pid} ended: {self.log.read_text(errors='replace')[-1000:]}")
        if self.kind == "worker":
            return b'"event":"working"' in self.log.read_bytes()
        status, document = self.get("/readyz")
        return status == 200 and int(document["workers"]) >= workers

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """GET from an API pod: status and JSON; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {}
        except (OSError, ValueError):
            return 0, {}

    def usage(self) -> tuple[int, int]:
        """Open descriptors, and resident bytes."""
        process = psutil.Process(self.pid)
        return process.num_fds(), process.memory_info().rss


def start(kind: str, arguments: list[str], settings: Settings, log: Path, environment: dict[str, str]) -> Pod:
    """Start a pod, which dies with this process: `python -m` with these arguments.

    Call it from the main thread. An API pod's arguments have its port after `--port`.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    process = spawn(
        [sys.executable, "-m", *arguments],
        log=log,
        env=variables
        | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
        | environment_of(settings)
        | environment,
        directory=ROOT,
        on_parent_death=SIGKILL,
    )
    url = f"http://127.0.0.1:{arguments[arguments.index('--port') + 1]}" if kind == "api" else ""
    return Pod(kind, process, log, url)


def end_all(pods: list[Pod]) -> None:
    """End what still runs, those that are stopped included; kill what does not end in time."""
    running = [pod for pod in pods if pod.running]
    for pod in running:
        pod.signal(SIGTERM)
        pod.signal(SIGCONT)
    for pod in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pod.process.wait(10)
        if pod.running:
            pod.signal(SIGKILL)
            pod.process.wait()
