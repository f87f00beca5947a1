"""API pods and workers as processes of their own, joined to one deployment by environment variables alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from faults.pods import environment_of

from trunkline.db import Database
from trunkline.dev.process import eventually, free_port
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants

PATIENCE = 60.0
"""Seconds that a process gets to start or to end."""
TLS = ssl.create_default_context()
"""Made once: nobody speaks it here, and a client that makes its own spends most of its time on that."""


async def becomes_true(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether `condition` becomes true within `seconds`; it is looked at in a thread, the loop running meanwhile."""
    return await asyncio.to_thread(eventually, lambda: bool(condition()), seconds)


@dataclass(frozen=True)
class Pod:
    """One `trunkline api` or `trunkline worker`."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        assert await becomes_true(lambda: self.process.poll() is not None, seconds), (
            f"it runs on: {self.lines()[-5:]}"
        )
        return self.process.returncode

    def sees(self, workers: int) -> bool:
        """Whether this API pod takes calls and knows of so many workers."""
        with contextlib.suppress(httpx2.HTTPError):
            answer = self.get("/readyz")
            return answer.status_code == 200 and answer.json()["workers"] >= workers
        return False

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(self.url + path, headers=headers, timeout=5, trust_env=False, verify=TLS)

    async def has_read(self) -> None:
        """Wait until this API pod has read what it was sent so far: it has then answered what was sent later."""
        assert (await asyncio.to_thread(self.get, "/livez")).status_code == 200

    def lines(self) -> list[str]:
        """What it has written: its log, and anything else that a process says."""
        return self.log.read_text().splitlines()

    async def logs(self, event: str) -> bool:
        """Whether it writes a line with that event, soon."""
        return await becomes_true(lambda: any(f'"event":"{event}"' in line for line in self.lines()))


@dataclass
class Deployment:
    """One deployment with the tenant `demo`, its builtin toolset and a key; the pods are what a test starts."""

    settings: Settings
    directory: Path
    key: str
    pods: list[Pod] = field(default_factory=list)

    async def enable(self, toolset: str) -> None:
        """Switch a toolset on for `demo`."""
        redis = await Redis.connect(self.settings, "test")
        database = Database(self.settings.database_url, process="test")
        try:
            await Tenants(self.settings, database, redis).enable("demo", toolset)
        finally:
            await database.aclose()
            await redis.aclose()

    async def start(self, apis: int, workers: int, *options: str) -> list[Pod]:
        """Start so many of each and wait until every API pod is ready and sees every worker."""
        begun = [self._api() for _ in range(apis)] + [self._worker(*options) for _ in range(workers)]
        await self._ready(*begun)
        return begun

    async def _ready(self, *begun: Pod) -> Pod:
        alive = sum(pod.running and not pod.url for pod in self.pods)
        for pod in self.pods:
            if pod.url and pod.running:
                ready = await becomes_true(lambda pod=pod: pod.sees(alive) or not all(each.running for each in begun))
                assert ready, pod.lines()[-5:]
        for pod in begun:
            assert pod.running, pod.lines()[-5:]
        return begun[0]

    async def api(self, port: int = 0, **changes: object) -> Pod:
        """Start one API pod more; at a port of one that has ended, it takes that one's place.

        With `changes`, its settings are others than those of the other pods.
        """
        return await self._ready(self._api(port, **changes))

    async def worker(self, *options: str) -> Pod:
        """Start one worker more."""
        return await self._ready(self._worker(*options))

    def _api(self, port: int = 0, **changes: object) -> Pod:
        port = port or free_port()
        settings = self.settings.model_copy(update=changes)
        return self._spawn(settings, "api", "--port", str(port), url=f"http://127.0.0.1:{port}")

    def _worker(self, *options: str) -> Pod:
        return self._spawn(self.settings, "worker", *options)

    def _spawn(self, settings: Settings, *arguments: str, url: str = "") -> Pod:
        log = self.directory / f"{arguments[0]}-{len(self.pods)}.log"
        command = [sys.executable, "-m", "trunkline", *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=os.environ | environment_of(settings), stdout=output, stderr=subprocess.STDOUT
            )
        self.pods.append(Pod(process, log, url))
        return self.pods[-1]

    def end(self) -> None:
        """End what still runs, killing what does not end in time."""
        running = [pod.process for pod in self.pods if pod.running]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def populate(settings: Settings) -> str:
    """Make the tenant `demo` with its toolset; its key."""
    redis = await Redis.connect(settings, "test")
    database = Database(settings.database_url, process="test")
    try:
        tenants = Tenants(settings, database, redis)
        await tenants.create("demo")
        await tenants.enable("demo", "demo")
        key, _ = await Keys(settings, database, redis).issue("demo")
    finally:
        await database.aclose()
        await redis.aclose()
    return key


@contextlib.asynccontextmanager
async def deployed(settings: Settings, directory: Path) -> AsyncIterator[Deployment]:
    """A deployment on these settings; its pods end with the block."""
    deployment = Deployment(settings, directory, await populate(settings))
    try:
        yield deployment
    finally:
        deployment.end()
