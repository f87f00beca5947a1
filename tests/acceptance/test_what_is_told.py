"""What processes write and answer, as operators and strangers get to see it: one form, and no secret in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from signal import SIGTERM

import httpx2
import pytest
from tests.acceptance.pods import Deployment, Pod, environment_of
from tests.acceptance.sessions import Session

from trunkline.settings import Settings

PAGES = (
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/.well-known/jwks.json",
    "/.well-known/oauth-protected-resource",
)
FIRST = ["timestamp", "level", "event", "process", "pod"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Everything that can be logged is."""
    return settings.model_copy(update={"log_level": "debug"})


async def misuse(api: Pod, session: Session, key: str) -> list[httpx2.Response]:
    """Requests that are wrong in every way in which a key may come along, in places where none belongs too."""
    messages = session.posts + session.endpoint
    ping = {"jsonrpc": "2.0", "id": 900, "method": "ping"}
    bearer = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        return [
            await http.get(f"{api.url}/t/demo/sse", headers={"authorization": f"Bearer {key}x"}),
            await http.get(f"{api.url}/t/demo/sse", headers={"authorization": f"Basic {key}"}),
            await http.get(f"{api.url}/t/demo/sse?ticket={key}"),
            await http.get(f"{api.url}/t/demo/sse?key={key}"),
            await http.get(f"{api.url}/t/{key}/sse", headers=bearer),
            await http.get(f"{api.url}/{key}", headers=bearer),
            await http.get(f"{api.url}/t/demo/sse", headers={**bearer, "last-event-id": key}),
            await http.get(f"{api.url}/t/demo/sse", headers={**bearer, "origin": f"https://{key}.example"}),
            await http.get(f"{api.url}/t/demo/sse", headers={**bearer, "host": key}),
            await http.post(messages, json=ping, headers={"authorization": key}),
            await http.post(
                messages, content=b"{" + key.encode(), headers=bearer | {"content-type": "application/json"}
            ),
            await http.post(f"{api.url}/t/demo/messages?session_id={key}", json=ping, headers=bearer),
            await http.post(messages, json={"jsonrpc": "2.0", "id": {"key": key}, "method": "ping"}, headers=bearer),
            await http.post(
                messages, content=b"x" * 2_097_152, headers=bearer | {"content-type": "application/json"}
            ),
            await http.put(messages, json=ping, headers=bearer),
        ]


async def garbage(api: Pod, key: str) -> bytes:
    """What is not HTTP, with a key in it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(f"Authorization: Bearer {key}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_logs_are_json_and_neither_they_nor_errors_nor_metrics_hold_a_key(deployment: Deployment) -> None:
    api, worker = await deployment.start(apis=1, workers=1)
    key = deployment.key
    async with Session(key, [api.url], posts=api.url).opened() as session:
        assert await session.call("add", a=3, b=5) == "8"
        wrong = await session.request("tools/call", {"name": "add", "arguments": {"a": key}})
        assert wrong["isError"]
        refusals = await misuse(api, session, key)
        assert await session.call("echo", text="still here") == "still here"
    said = [(await garbage(api, key)).decode()]
    assert [answer.status_code for answer in refusals if answer.status_code < 400 or answer.status_code >= 500] == []
    said += [f"{answer.headers}{answer.text}" for answer in refusals]
    for page in PAGES:
        answer = await asyncio.to_thread(api.get, page)
        said.append(f"{answer.headers}{answer.text}")
    for pod in (api, worker):
        pod.signal(SIGTERM)
        assert await pod.ended() == 0

    lines = api.lines() + worker.lines()
    documents = [json.loads(line) for line in lines]
    assert all(list(document)[:5] == FIRST for document in documents)
    stations = {document["event"] for document in documents}
    assert {"accept", "enqueue", "claim", "execute", "publish", "forward", "deliver"} <= stations
    for secret in secrets_of(deployment):
        for text in (*lines, *said):
            assert secret not in text


def secrets_of(deployment: Deployment) -> list[str]:
    """The key and each part of it that is worth something, and what the processes were told besides."""
    _, payload, signature = deployment.key.split(".")
    settings = deployment.settings
    passwords = re.findall(r"://[^:]*:([^@]+)@", f"{settings.database_url} {settings.redis_url}")
    return [deployment.key, payload, signature, settings.secret_key.get_secret_value(), *passwords]


async def test_every_station_of_one_call_is_in_the_logs_under_its_id(deployment: Deployment) -> None:
    api, worker = await deployment.start(apis=1, workers=1)
    async with Session(deployment.key, [api.url], posts=api.url).opened() as session:
        await session.call("add", a=3, b=5)
        identity = session.endpoint.partition("=")[2]
    for pod in (api, worker):
        pod.signal(SIGTERM)
        await pod.ended()
    documents = [json.loads(line) for line in api.lines() + worker.lines()]
    call = next(line["call"] for line in documents if line["event"] == "accept" and line["method"] == "tools/call")
    of_the_call = {line["event"]: line["process"] for line in documents if line.get("call") == call}
    assert of_the_call == {
        "accept": "api",
        "enqueue": "api",
        "claim": "worker",
        "execute": "worker",
        "publish": "worker",
    }
    offset = next(line["offset"] for line in documents if line["event"] == "publish" and line["call"] == call)
    delivered = {
        line["event"] for line in documents if (line.get("session"), line.get("offset")) == (identity, offset)
    }
    assert {"forward", "deliver"} <= delivered


async def test_what_goes_wrong_at_the_start_is_one_sentence_without_a_secret(deployment: Deployment) -> None:
    broken = deployment.settings.model_copy(update={"redis_url": "redis://:hunter2-hunter2@127.0.0.1:1/0"})
    assert "hunter2-hunter2" in environment_of(broken)["TRUNKLINE_REDIS_URL"]
    deployment.settings = broken
    with contextlib.suppress(AssertionError):
        await deployment.start(apis=1, workers=1)
    for pod in deployment.pods:
        assert await pod.ended() == 1
        assert "Redis is away" in pod.lines()[-1]
        assert not any("hunter2" in line or "Traceback" in line for line in pod.lines())
