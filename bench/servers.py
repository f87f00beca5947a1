"""The two sides as real processes: starting, stopping, and what CPU and memory they have taken, by role."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
LIMITS_OUT_OF_THE_WAY = {
    "TRUNKLINE_TENANT_RATE": "1000000",
    "TRUNKLINE_TENANT_BURST": "1000000",
    "TRUNKLINE_TENANT_IN_FLIGHT": "100000",
    "TRUNKLINE_TENANT_SESSIONS": "100000",
    "TRUNKLINE_SESSION_RATE": "10000",
    "TRUNKLINE_SESSION_BURST": "100000",
}
"""Checked on every message all the same, but never reached by the load."""


class StartError(Exception):
    """A server did not come up; the sentence carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server's processes have taken so far, by role: CPU seconds since start, resident bytes now."""

    cpu: dict[str, float]
    resident: dict[str, float]


@dataclass(frozen=True, slots=True)
class Server:
    """A running side."""

    name: str
    urls: dict[str, str]
    """Where each transport is served that this process serves."""
    key: str
    process: psutil.Process
    env: dict[str, str]

    def usage(self) -> Usage:
        """Sum over all processes below and with the started one."""
        cpu: defaultdict[str, float] = defaultdict(float)
        resident: defaultdict[str, float] = defaultdict(float)
        for process in (self.process, *self.process.children(recursive=True)):
            try:
                role = _role(process, top=process == self.process)
                cpu[role] += cpu_seconds(process)
                resident[role] += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # its CPU is by now in its parent's count of ended children
        return Usage(dict(cpu), dict(resident))

    def process_of(self, role: str) -> psutil.Process:
        """The first process of that role."""
        everyone = (self.process, *self.process.children(recursive=True))
        return next(process for process in everyone if _role(process, top=process == self.process) == role)


def _role(process: psutil.Process, *, top: bool) -> str:
    name, line = process.name().lower(), process.cmdline()
    if "bench.sdk_server" in line:
        return "sdk"
    if top:
        return "supervisor"
    if name.startswith("postgres") or any(part.startswith("postgres") for part in line[:1]):
        return "postgres"
    if "valkey" in name or "redis" in name or any("valkey" in part or "redis-server" in part for part in line[:2]):
        return "redis"
    return next((role for role in ("api", "worker") if role in line), "other")


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of a process and of its children that have ended.

    On Linux from the process's own CPU clock, which counts nanoseconds where `/proc/<pid>/stat` counts
    hundredths of a second: clock_getcpuclockid(3) makes its id from the pid like this.
    """
    times = process.cpu_times()
    own = times.user + times.system
    if sys.platform == "linux":
        try:
            own = time.clock_gettime((~process.pid << 3) | 2)
        except OSError:
            raise psutil.NoSuchProcess(process.pid) from None
    return float(own + times.children_user + times.children_system)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _started(command: list[str], log: Path, env: dict[str, str]) -> Iterator[psutil.Process]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(ready: Path | str, process: psutil.Process, log: Path) -> None:
    """Until the file is there, or the URL answers."""
    deadline = time.monotonic() + START_TIMEOUT
    while not (ready.exists() if isinstance(ready, Path) else _answers(ready)):
        dead = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        if dead or time.monotonic() > deadline:
            end = log.read_text(errors="replace")[-2000:]
            raise StartError(f"{'it ended' if dead else 'not ready in time'}; its last words:\n{end}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def sdk(variant: str = "tuned", transport: str = "sse") -> Iterator[Server]:
    """The SDK's server in one process, up and answering; both eras of streamable HTTP are one server."""
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    urls = {"sse": f"{root}/sse"} if transport == "sse" else dict.fromkeys(("http", "modern"), f"{root}/mcp")
    with tempfile.TemporaryDirectory(prefix="tl-bench-") as folder:
        log = Path(folder, "log")
        command = [sys.executable, "-m", "bench.sdk_server", "--port", str(port), "--variant", variant]
        command += ["--transport", "sse" if transport == "sse" else "http"]
        with _started(command, log, {}) as process:
            _wait(f"{root}/nothing", process, log)
            yield Server("sdk", urls, "", process, {})


@contextmanager
def trunkline(workers: int = 1) -> Iterator[Server]:
    """Trunkline on its embedded stores: API, workers, Valkey and Postgres, with the bench's server hosted."""
    with tempfile.TemporaryDirectory(prefix="tl-bench-") as folder:
        log, data = Path(folder, "log"), Path(folder, "data")
        command = [sys.executable, "-m", "trunkline", "dev", "--port", str(free_port()), "--data", str(data)]
        command += ["--workers", str(workers), "--server", "bench.echo:server"]
        with _started(command, log, LIMITS_OUT_OF_THE_WAY) as process:
            _wait(data / "dev.json", process, log)
            facts = json.loads((data / "dev.json").read_text())
            _wait(f"{facts['url']}/readyz", process, log)
            # The SDK's side serves one server; so does the tenant that is measured.
            switch_off = [sys.executable, "-m", "trunkline", "toolset", "disable", facts["tenant"], "demo"]
            subprocess.run(switch_off, env={**os.environ, **facts["env"]}, check=True, stdout=subprocess.DEVNULL)
            sse = facts["sse_url"]
            mcp = f"{sse.removesuffix('/sse')}/mcp"
            urls = {"sse": sse, "http": mcp, "modern": mcp}
            yield Server("trunkline", urls, facts["api_key"], process, facts["env"])
