"""Pods that stop, and pods that die: what their clients notice of it, and what becomes of what was under way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from urllib.parse import urljoin

import httpx2
import pytest
import pytest_asyncio
import redis
from tests.acceptance.pods import TLS, Deployment, Pod, becomes_true, deployed
from tests.acceptance.sessions import Session
from tests.control import settings_on
from tests.stores import TestStores

from trunkline.settings import Settings
from trunkline.streams.keys import Keys

STREAMS = 20
ROUNDS = 5
"""Calls of each session before the pod stops, and as many after."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def begun(stores: TestStores, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    with settings_on(stores) as settings:
        async with deployed(settings, tmp_path_factory.mktemp("lasting")) as made:
            await made.start(apis=1, workers=1)
            yield made


@pytest.fixture
def lasting(begun: Deployment) -> Iterator[Deployment]:
    """A deployment with an API pod and a worker that stay, whichever others come and go with the tests."""
    lasting = list(begun.pods)
    yield begun
    for pod in begun.pods[len(lasting) :]:
        pod.process.kill()
        pod.process.wait()
    begun.pods = lasting


@contextlib.asynccontextmanager
async def sessions(deployment: Deployment, pods: list[str], posts: str) -> AsyncIterator[list[Session]]:
    async with contextlib.AsyncExitStack() as stack:
        made = [Session(deployment.key, pods, posts) for _ in range(STREAMS)]
        yield await asyncio.gather(*(stack.enter_async_context(session.opened()) for session in made))


async def call_on(name: int, session: Session, halfway: asyncio.Barrier) -> None:
    """Call without a pause, before, while and after something happens; every answer must be the call's own."""
    for number in range(ROUNDS):
        assert await session.call("echo", text=f"{name} before {number}") == f"{name} before {number}"
    await halfway.wait()
    for number in itertools.count():
        assert await session.call("echo", text=f"{name} after {number}") == f"{name} after {number}"
        if session.ends and number >= ROUNDS:
            return


@pytest.mark.parametrize("number", [SIGTERM, SIGKILL])
async def test_clients_of_a_pod_that_ends_go_on_at_another_with_nothing_lost_and_nothing_twice(
    lasting: Deployment, number: Signals
) -> None:
    staying, leaving = lasting.pods[0], await lasting.api()
    halfway = asyncio.Barrier(STREAMS + 1)
    async with (
        asyncio.timeout(60),
        sessions(lasting, [leaving.url, staying.url], posts=staying.url) as opened,
        asyncio.TaskGroup() as group,
    ):
        for name, session in enumerate(opened):
            group.create_task(call_on(name, session, halfway))
        await halfway.wait()
        leaving.signal(number)
        assert await leaving.ended() == (0 if number == SIGTERM else -SIGKILL)
    ends = [end for session in opened for end in session.ends]
    assert len(ends) == STREAMS, "each comes back once, and stays"
    if number == SIGTERM:
        assert all(250 <= int(end) <= 2_000 for end in ends), "each was told when to come back"


async def test_a_client_of_a_killed_pod_receives_at_another_what_was_answered_meanwhile(lasting: Deployment) -> None:
    poster, killed = lasting.pods[0], await lasting.api()
    async with Session(lasting.key, [killed.url, poster.url], posts=poster.url).opened() as session:
        running = await session.send("tools/call", {"name": "countdown", "arguments": {"start": 2, "interval": 0.3}})
        killed.signal(SIGKILL)
        at_once = [await session.send("ping", {}) for _ in range(5)]
        assert await asyncio.gather(*at_once) == [{}] * 5
        assert (await running)["content"][0]["text"] == "counted down from 2"
        assert len(session.ends) == 1


@dataclass
class Half:
    """A POST whose body has not arrived whole."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rest: bytes

    async def complete(self) -> bytes:
        """Send the rest; the first line of the answer."""
        self.writer.write(self.rest)
        async with asyncio.timeout(10):
            line = await self.reader.readline()
        self.writer.close()
        return line


async def post_half(pod: Pod, key: str, endpoint: str, first: bytes, rest: bytes) -> Half:
    """POST a message to a pod, of which it has the head and the first part by now."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    head = (
        f"POST {endpoint} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(first + rest)}\r\n\r\n"
    )
    writer.write(head.encode() + first)
    await writer.drain()
    await pod.has_read()
    return Half(reader, writer, rest)


async def test_a_post_that_a_stopping_pod_has_begun_to_read_is_accepted_and_answered(lasting: Deployment) -> None:
    staying, leaving = lasting.pods[0], await lasting.api()
    async with Session(lasting.key, [staying.url], posts=staying.url).opened() as session:
        answer = session.expect(1)
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        half = await post_half(leaving, lasting.key, session.endpoint, body[:5], body[5:])
        leaving.signal(SIGTERM)
        assert await leaving.logs("draining")
        assert b"202" in await half.complete()
        assert await answer == {}
        assert await leaving.ended() == 0


async def test_a_stopping_pod_answers_at_its_port_until_proxies_have_noticed(lasting: Deployment) -> None:
    staying, leaving = lasting.pods[0], await lasting.api(drain_delay=60.0)
    async with (
        Session(lasting.key, [leaving.url, staying.url], posts=staying.url).opened() as session,
        httpx2.AsyncClient(trust_env=False, verify=TLS) as kept,
    ):
        headers = {"authorization": f"Bearer {lasting.key}"}
        assert "connection" not in (await kept.get(f"{leaving.url}/livez")).headers
        leaving.signal(SIGTERM)
        assert await leaving.logs("draining")
        session.posts = leaving.url
        assert await session.call("echo", text="accepted still") == "accepted still"
        assert session.ends, "the stream is elsewhere"
        assert 250 <= int(session.ends[0]) <= 2_000
        for path, status in (("/livez", 200), ("/readyz", 503), ("/t/demo/sse", 503)):
            answer = await kept.get(leaving.url + path, headers=headers)
            assert (answer.status_code, answer.headers["connection"]) == (status, "close")
        assert int(answer.headers["retry-after"]) >= 1
        leaving.signal(SIGTERM)
        assert await leaving.ended(5) >= 0, "who is in a hurry signals again"
        session.posts = staying.url
        assert await session.call("echo", text="here") == "here"


async def test_while_a_pod_stops_each_post_is_accepted_until_its_port_is_closed(lasting: Deployment) -> None:
    staying, leaving = lasting.pods[0], await lasting.api(drain_delay=2.0)
    async with Session(lasting.key, [staying.url], posts=staying.url).opened() as session:
        under_way = asyncio.Barrier(5)

        async def post_on() -> None:
            """One client with connections that it keeps, until nobody is there any more."""
            headers = {"authorization": f"Bearer {lasting.key}"}
            url = urljoin(leaving.url, session.endpoint)
            async with httpx2.AsyncClient(trust_env=False, verify=TLS) as http:
                with contextlib.suppress(httpx2.ConnectError):
                    for number in itertools.count():
                        message = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"n": number}}
                        answer = await http.post(url, json=message, headers=headers)
                        assert answer.status_code == 202
                        if number == 0:
                            await under_way.wait()

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(post_on())
            await under_way.wait()
            leaving.signal(SIGTERM)
        assert await leaving.ended() == 0


async def test_a_worker_that_stops_finishes_what_it_runs(deployment: Deployment) -> None:
    api, worker = await deployment.start(apis=1, workers=1)
    async with Session(deployment.key, [api.url], posts=api.url).opened() as session:
        calls = [
            await session.send(
                "tools/call",
                {"name": "countdown", "arguments": {"start": 2, "interval": 0.5}, "_meta": {"progressToken": number}},
            )
            for number in range(8)
        ]
        await session.told("notifications/progress")
        worker.signal(SIGTERM)
        assert await worker.logs("draining")
        results = await asyncio.gather(*calls)
        assert {result["content"][0]["text"] for result in results} == {"counted down from 2"}
        late = await session.send("ping", {})
        assert await worker.ended() == 0
        assert not late.done(), "a worker that stops claims nothing more"
        await deployment.worker()
        assert await late == {}


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
async def test_a_second_signal_ends_a_worker_at_once(deployment: Deployment, number: Signals) -> None:
    api, worker = await deployment.start(apis=1, workers=1)
    async with Session(deployment.key, [api.url], posts=api.url).opened() as session:
        arguments = {"start": 60, "interval": 5}
        call = await session.send(
            "tools/call", {"name": "countdown", "arguments": arguments, "_meta": {"progressToken": 0}}
        )
        await session.told("notifications/progress")
        worker.signal(number)
        assert await worker.logs("draining")
        worker.signal(number)
        code = await worker.ended(3)
        call.cancel()
    assert code >= 0, "it ended by itself"
    assert not [line for line in worker.lines() if not line.startswith("{")]


async def test_a_second_signal_ends_a_worker_whose_tool_holds_a_thread(deployment: Deployment) -> None:
    await deployment.enable("blocking")
    api, worker = await deployment.start(1, 1, "--server", "tests.servers.blocking:server")
    async with Session(deployment.key, [api.url], posts=api.url).opened() as session:
        call = await session.send("tools/call", {"name": "hold", "arguments": {}})
        assert await becomes_true(lambda: _claimed(deployment))
        worker.signal(SIGTERM)
        assert await worker.logs("draining")
        worker.signal(SIGTERM)
        assert await worker.ended(5) >= 0
        call.cancel()


def _claimed(deployment: Deployment) -> bool:
    """Whether a worker has taken the one call that there is."""
    keys = Keys(deployment.settings)
    with redis.Redis.from_url(deployment.settings.redis_url) as client:
        groups = [group for lane in range(keys.lanes) for group in client.xinfo_groups(keys.calls(lane))]
    return any(group["pending"] for group in groups)


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
async def test_a_second_signal_ends_an_api_pod_at_once(deployment: Deployment, number: Signals) -> None:
    (api,) = await deployment.start(apis=1, workers=0)
    half = await post_half(api, deployment.key, "/t/demo/messages?session_id=x", b"{", b"}")
    api.signal(number)
    assert await api.logs("draining")
    api.signal(number)
    assert await api.ended(3) >= 0
    assert not [line for line in api.lines() if not line.startswith("{")]
    half.writer.close()


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
async def test_a_signal_ends_an_api_pod_that_waits_for_redis_still(
    settings: Settings, tmp_path: Path, number: Signals
) -> None:
    asked = asyncio.Event()

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    nobody = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    address = f"redis://127.0.0.1:{nobody.sockets[0].getsockname()[1]}"
    deployment = Deployment(settings.model_copy(update={"redis_url": address}), tmp_path, key="")
    try:
        pod = deployment._api()
        async with asyncio.timeout(30):
            await asked.wait()
        pod.signal(number)
        assert await pod.ended(3) == 0
        assert not [line for line in pod.lines() if not line.startswith("{")]
    finally:
        deployment.end()
        nobody.close()
