"""API pods and workers in the loop of the test, on real Redis and Postgres, through real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx2
import pytest

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
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def api(self, **changes: object) -> str:
        """Start an API pod and wait until it listens to Redis; its URL."""
        listener = listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = ApiProcess(self.settings.model_copy(update=changes), f"api-{len(self._running)}")
        self._running[asyncio.create_task(process.run(listener))] = process
        await until(lambda: _ready(url))
        return url

    async def worker(self, *servers: str, **changes: object) -> WorkerProcess:
        """Start a worker that hosts the builtin toolset and `servers`, and wait until it gives signs of life."""
        before = await self.workers()
        settings = self.settings.model_copy(update=changes)
        process = WorkerProcess(settings, f"worker-{len(self._running)}", Catalog(gather(servers)))
        self._running[asyncio.create_task(process.run())] = process

        async def alive() -> bool:
            return await self.workers() > before

        await until(alive)
        return process

    async def workers(self) -> int:
        return int(await self.redis.command("ZCARD", self.redis.keys.workers))

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
        for process in self._running.values():
            process.stop()
        async with asyncio.timeout(PATIENCE * 2):
            await asyncio.gather(*self._running)


async def _ready(url: str) -> bool:
    async with httpx2.AsyncClient(trust_env=False) as http:
        return (await http.get(f"{url}/readyz")).status_code == 200


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    """A deployment with the tenant `demo`, its builtin toolset and a key, and no pods yet."""
    redis = await Redis.connect(settings, "test")
    database = Database(settings.database_url, process="test")
    made = Platform(settings, Tenants(settings, database, redis), Keys(settings, database, redis), redis)
    await made.tenants.create("demo")
    await made.tenants.enable("demo", "demo")
    made.key, _ = await made.keys.issue("demo")
    yield made
    await made.aclose()
    await database.aclose()
    await redis.aclose()
