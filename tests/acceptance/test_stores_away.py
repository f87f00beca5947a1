"""Stores that go and come back under running pods: what goes on, what is refused, and that no pod needs a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from signal import SIGKILL

import asyncpg
import httpx2
import pytest
from tests.acceptance.pods import Deployment, Pod, becomes_true
from tests.acceptance.sessions import Session
from tests.stores import open_directory

from trunkline.dev.data import DataDirectory
from trunkline.dev.postgres import Postgres
from trunkline.dev.stores import Stores, running_stores
from trunkline.dev.valkey import Valkey
from trunkline.schema import migrate
from trunkline.settings import Settings


class Store:
    """A store of the test's own, as durable as production's, which it takes away and brings back."""

    def __init__(self, stores: Stores, url: str) -> None:
        (self._store,) = stores.embedded
        self.url = url
        self._port = int(url.rpartition(":")[2].partition("/")[0])

    def kill(self) -> None:
        """End it as a crash does. The kill reaches the process alone: what it has written to its files stays."""
        assert self._store.process is not None
        self._store.process.send_signal(SIGKILL)
        self._store.process.wait(10)

    def stop(self) -> None:
        self._store.stop()

    async def come_back(self) -> None:
        self._store.launch(self._port)
        assert await becomes_true(self._store.ready)


@pytest.fixture
def redis() -> Iterator[Store]:
    """A Valkey with an append-only file."""
    with open_directory() as path:
        data = DataDirectory(path)
        with data.locked(), running_stores(data, database_url="postgresql://another/") as stores:
            assert isinstance(stores.embedded[0], Valkey)
            yield Store(stores, stores.redis_url)


@pytest.fixture
def postgres() -> Iterator[Store]:
    """A migrated Postgres."""
    with open_directory() as path:
        data = DataDirectory(path)
        with data.locked(), running_stores(data, redis_url="redis://another/") as stores:
            assert isinstance(stores.embedded[0], Postgres)
            migrate(stores.database_url)
            yield Store(stores, stores.database_url)


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Settings with the store of the test's own, and the other one that all tests share."""
    name = {"redis": "redis_url", "postgres": "database_url"}[request.param]
    store: Store = request.getfixturevalue(request.param)
    return settings.model_copy(update={name: store.url})


def stores_as_seen_by(pod: Pod) -> tuple[int, dict[str, str]]:
    answer = pod.get("/readyz")
    return answer.status_code, answer.json()["stores"]


async def refusal(session: Session, key: str) -> httpx2.Response:
    message = {"jsonrpc": "2.0", "id": 1_000_000, "method": "ping"}
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        return await http.post(
            session.posts + session.endpoint, json=message, headers={"authorization": f"Bearer {key}"}
        )


@pytest.mark.parametrize("settings", ["redis"], indirect=True)
async def test_redis_dies_and_comes_back_and_everything_goes_on_without_a_restart(
    deployment: Deployment, redis: Store
) -> None:
    first, second, *_ = await deployment.start(apis=2, workers=2)
    async with contextlib.AsyncExitStack() as stack:
        sessions = [Session(deployment.key, [first.url, second.url], posts=second.url) for _ in range(10)]
        await asyncio.gather(*(stack.enter_async_context(session.opened()) for session in sessions))
        running = [
            await session.send("tools/call", {"name": "countdown", "arguments": {"start": 2, "interval": 0.5}})
            for session in sessions
        ]
        redis.kill()

        refused = await refusal(sessions[0], deployment.key)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "Redis is away" in refused.json()["error"]["message"]
        for pod in (first, second):
            assert await asyncio.to_thread(stores_as_seen_by, pod) == (503, {"redis": "away", "postgres": "ok"})

        await redis.come_back()
        async with asyncio.timeout(5):
            texts = [f"session {name} goes on" for name in range(len(sessions))]
            calls = [session.call("echo", text=text) for session, text in zip(sessions, texts, strict=True)]
            assert await asyncio.gather(*calls) == texts
        accepted = await asyncio.gather(*running)
        assert {result["content"][0]["text"] for result in accepted} == {"counted down from 2"}
        for pod in (first, second):
            assert await becomes_true(lambda pod=pod: pod.sees(2), 5)
        assert [session.ends for session in sessions] == [[]] * len(sessions), "the streams stayed open"


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
async def test_postgres_goes_and_comes_back_and_calls_go_on_and_all_are_audited(
    deployment: Deployment, postgres: Store
) -> None:
    api, _ = await deployment.start(apis=1, workers=1)
    async with Session(deployment.key, [api.url], posts=api.url).opened() as before:
        assert await before.call("add", a=1, b=2) == "3"
        postgres.stop()
        for number in range(20):
            assert await before.call("add", a=number, b=1) == str(number + 1)
        async with Session(deployment.key, [api.url], posts=api.url).opened() as begun_without:
            assert await begun_without.call("add", a=3, b=5) == "8"
        assert await asyncio.to_thread(stores_as_seen_by, api) == (200, {"redis": "ok", "postgres": "away"})

        await postgres.come_back()
        assert await before.call("add", a=3, b=5) == "8"
        async with asyncio.timeout(30):
            while len(rows := await audited(postgres.url)) < 23:
                await asyncio.to_thread(api.get, "/livez")
        assert await becomes_true(lambda: stores_as_seen_by(api)[1]["postgres"] == "ok")
    assert {(row["target"], row["outcome"]) for row in rows} == {("add", "ok")}
    assert len({row["id"] for row in rows}) == len(rows) == 23


async def audited(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET trunkline.scope = 'audit'")
        return await connection.fetch("SELECT id, target, outcome FROM audit_events WHERE action = 'tools/call'")
    finally:
        await connection.close()
