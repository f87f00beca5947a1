"""API pods and workers in the loop of the test, on real Redis and Postgres, through real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

import pytest
from tests.journey import workshop
from tests.sse import PATIENCE

from trunkline.api.run import ApiProcess, listen
from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants
from trunkline.toolsets.catalog import Catalog, gather
from trunkline.worker.run import WorkerProcess


@dataclass
class Platform:
    """A deployment: its settings, what manages its tenants, and the pods that a test starts."""

    settings: Settings
    tenants: Tenants
    keys: Keys
    redis: Redis
    key: str = ""
    _running: dict[asyncio.Task[None], ApiProcess | WorkerProcess] = field(default_factory=dict)

    async def api(self, **changes: object) -> str:
        """Start an API pod and wait until it hears Redis; its URL."""
        listener = listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = self.settings.model_copy(update=changes)
        process = ApiProcess(settings, f"api-{len(self._running)}", fast_passwords=True)
        await self._start(process, process.run(listener))
        return url

    async def worker(self, *servers: str, **changes: object) -> WorkerProcess:
        """Start a worker that hosts the builtin toolset and `servers`, and wait until it claims calls."""
        settings = self.settings.model_copy(update=changes)
        process = WorkerProcess(
            settings, f"worker-{len(self._running)}", Catalog(gather(servers), secret=settings.secret_key)
        )
        await self._start(process, process.run())
        return process

    async def workshop(self, **changes: object) -> WorkerProcess:
        """Start a worker that hosts the workshop, switched on for `demo`, which tells clients if done twice."""
        if workshop.NAME not in {each.name for each in (await self.tenants.get("demo")).toolsets}:
            await self.tenants.enable("demo", workshop.NAME)
        return await self.worker(workshop.PATH, **changes)

    async def _start(self, process: ApiProcess | WorkerProcess, running: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(running)
        self._running[task] = process
        ready = asyncio.create_task(process.ready.wait())
        await asyncio.wait({task, ready}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        assert ready.done(), "the process did not start in time"

    async def stop(self, process: ApiProcess | WorkerProcess) -> None:
        """Drain one pod and wait for its end."""
        process.stop()
        task = next(task for task, other in self._running.items() if other is process)
        async with asyncio.timeout(PATIENCE):
            await task
        del self._running[task]

    def process(self, kind: type[ApiProcess], number: int = 0) -> ApiProcess:
        return [process for process in self._running.values() if isinstance(process, kind)][number]

    async def aclose(self) -> None:
        """Stop all pods; nobody is about to connect any more."""
        for process in self._running.values():
            process.stop()
            if isinstance(process, ApiProcess):
                process._hurry.set()
        async with asyncio.timeout(PATIENCE * 2):
            await asyncio.gather(*self._running)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Few lanes: a worker with fewer free slots than lanes looks at them in turn, which takes its time."""
    return settings.model_copy(update={"lanes": 4})


@contextlib.asynccontextmanager
async def platform_on(settings: Settings) -> AsyncIterator[Platform]:
    """A deployment with the tenant `demo`, its builtin toolset and a key, and no pods yet."""
    redis = await Redis.connect(settings, "test")
    database = Database(settings.database_url, process="test")
    made = Platform(settings, Tenants(settings, database, redis), Keys(settings, database, redis), redis)
    await made.tenants.create("demo")
    await made.tenants.enable("demo", "demo")
    made.key, _ = await made.keys.issue("demo")
    try:
        yield made
    finally:
        await made.aclose()
        await database.aclose()
        await redis.aclose()


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    """`platform_on` the stores that all tests share."""
    async with platform_on(settings) as made:
        yield made


@pytest.fixture
async def gate() -> AsyncIterator[workshop.Gate]:
    """A gate of the workshop that no other test knows; open when the test ends, so that nothing stays behind it."""
    made = workshop.Gate(secrets.token_hex(6))
    workshop.gates[made.name] = made
    yield made
    workshop.gates.pop(made.name).open()


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    """Ask until it is so; each question is a round trip, which is pause enough."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            pass
