"""The API and the workers as processes of their own, as in production: started, watched, ended."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trunkline.dev.process import last_words, spawn
from trunkline.errors import StartRefused

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_STOP_PATIENCE = 10.0
"""Seconds that the API and the workers get to drain when we end."""
_START_PATIENCE = 60.0
_POLL = 0.05


class Child:
    """One `trunkline` process."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._command = [sys.executable, "-m", "trunkline", *arguments]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = _FIRST_PAUSE
        self._started = 0.0

    def start(self) -> None:
        """Start it; its output goes to the end of its log."""
        self._started = time.monotonic()
        self._process = spawn(self._command, log=self.log, env=self._env)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def loss(self) -> str:
        """A sentence on how it ended."""
        code = self._process.returncode if self._process else None
        return f"The {self.name} ended by itself (exit code {code}: {last_words(self.log)}); its log is {self.log}."

    def pause_before_restart(self) -> float:
        """Seconds to wait: more each time, unless it had lived for longer than the longest wait."""
        if time.monotonic() - self._started > _LONGEST_PAUSE:
            self._pause = _FIRST_PAUSE
        pause = self._pause
        self._pause = min(2 * pause, _LONGEST_PAUSE)
        return pause

    def send(self, number: signal.Signals) -> None:
        """Signal it if it runs."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it now and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


def end_all(children: Sequence[Child], impatient: Callable[[], bool]) -> None:
    """Ask all to end, let them drain for a while, then kill; at once where whoever waits is impatient."""
    for child in children:
        child.send(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_PATIENCE
    while any(child.running for child in children) and time.monotonic() < deadline and not impatient():
        time.sleep(_POLL)
    for child in children:
        child.kill()


def await_ready(host: str, port: int, children: Sequence[Child], workers: int, stopped: Callable[[], bool]) -> bool:
    """Wait until the API takes calls and that many workers are there to run them; False if told to stop before.

    Raises:
        StartRefused: a process ended, or they do not come up.
    """
    deadline = time.monotonic() + _START_PATIENCE
    while not stopped():
        ready = _ready_workers(host, port)
        if ready is not None and ready >= workers:
            return True
        for child in children:
            if not child.running:
                raise StartRefused(f"The {child.name} did not start: {last_words(child.log)}")
        if time.monotonic() > deadline:
            logs = " and ".join(str(child.log) for child in children)
            raise StartRefused(f"API and workers were not ready within {_START_PATIENCE:.0f} s; see {logs}.")
        time.sleep(_POLL)
    return False


def _ready_workers(host: str, port: int) -> int | None:
    """The number of workers that the API sees; None as long as it is not ready itself."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return int(document["workers"]) if answer.status == 200 else None
