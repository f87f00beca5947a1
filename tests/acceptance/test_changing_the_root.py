"""TRUNKLINE_SECRET_KEY is changed as docs/key-rotation.md says, by rolling deploys under calls."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGTERM

import orjson
from tests.acceptance.conftest import Trunkline
from tests.acceptance.pods import Deployment, Pod, becomes_true
from tests.acceptance.sessions import Session
from tests.roots import rooted

CLIENTS = 5


class Clients:
    """Sessions that call without a pause, of keys from before and after each deploy."""

    def __init__(self) -> None:
        self.pods: list[str] = []
        """Where streams are resumed; what a load balancer would know."""
        self.answers = 0
        self._sessions: list[Session] = []
        self._stopping = False

    async def join(self, group: asyncio.TaskGroup, key: str) -> None:
        """Another session begins to call."""
        opened = asyncio.Event()
        group.create_task(self._call(key, opened))
        await opened.wait()

    async def _call(self, key: str, opened: asyncio.Event) -> None:
        async with Session(key, self.pods, posts=self.pods[0]).opened() as session:
            self._sessions.append(session)
            opened.set()
            while not self._stopping:
                text = f"answer {self.answers}"
                assert await session.call("echo", text=text) == text
                self.answers += 1

    def move(self, pods: list[Pod]) -> None:
        """From now on these are the pods that take requests."""
        self.pods[:] = [pod.url for pod in pods if pod.url]
        for session in self._sessions:
            session.posts = self.pods[0]

    async def are_answered(self) -> None:
        """Wait until each has been answered by what runs now."""
        wanted = self.answers + 2 * len(self._sessions)
        assert await becomes_true(lambda: self.answers >= wanted)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as group:
            yield group
            self._stopping = True


async def deploy(deployment: Deployment, clients: Clients) -> None:
    """Replace all pods, new ones first; both kinds take calls side by side for a while."""
    leaving = [pod for pod in deployment.pods if pod.running]
    begun = await deployment.start(apis=2, workers=1)
    clients.move([*begun, *leaving])
    await clients.are_answered()
    clients.move(begun)
    for pod in leaving:
        pod.signal(SIGTERM)
    assert [await pod.ended() for pod in leaving] == [0] * len(leaving)
    await clients.are_answered()


async def test_the_root_changes_under_calls_and_all_keys_go_on(deployment: Deployment, trunkline: Trunkline) -> None:
    settings, old, new = deployment.settings, deployment.settings.secret_key.get_secret_value(), secrets.token_hex(32)

    async def say(*arguments: str) -> str:
        code, said = await trunkline(*arguments, on=deployment.settings)
        assert code == 0, said
        return said

    clients = Clients()
    clients.move(await deployment.start(apis=2, workers=1))
    signer = orjson.loads(await say("audit", "head", "demo", "--json"))["signer"]
    async with clients.working() as group:
        for _ in range(CLIENTS):
            await clients.join(group, deployment.key)
        for step in (rooted(settings, old, new), rooted(settings, new, old)):
            deployment.settings = step
            await deploy(deployment, clients)
            await clients.join(group, (await say("key", "issue", "demo", "--quiet")).strip())
        assert "Encrypted anew: 1 signing keys" in await say("secrets", "rewrap")
        deployment.settings = rooted(settings, new)
        await deploy(deployment, clients)
        await clients.join(group, deployment.key)
        await clients.are_answered()
    deployment.end()
    assert "all as they were written" in await say("audit", "verify", "demo", "--signer", signer)
