"""Batches of JSON-RPC messages, which one revision has (2025-03-26): each message is accepted by itself."""

from __future__ import annotations

from typing import Any

import pytest
from tests.journey.conftest import Platform
from tests.journey.workshop import Gate
from tests.sse import text_of
from tests.streamable import LATEST, call, client, request

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

VERSION = "2025-03-26"
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def by_id(answers: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {answer["id"]: answer for answer in answers}


async def test_a_batch_is_answered_by_an_array_with_an_answer_to_each_request(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize(VERSION)
        batch = [call(1, "echo", text="a"), INITIALIZED, call("two", "echo", text="b"), request(3, "nonsense")]
        for version in (VERSION, ""):
            response = await one.send("POST", batch, mcp_protocol_version=version)
            assert response.headers["content-type"] == "application/json"
            answers = by_id(response.json())
            assert len(response.json()) == 3
            assert text_of(answers[1]["result"]) == "a"
            assert text_of(answers["two"]["result"]) == "b"
            assert answers[3]["error"]["code"] == -32601
        (only,) = (await one.send("POST", [request(9, "ping")])).json()
        assert only["result"] == {}


async def test_a_batch_that_takes_its_time_or_tells_of_progress_is_answered_on_one_stream(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize(VERSION)
        progress = {"progressToken": 1}
        batch = [call(1, "wait", gate=gate.name), call(2, "steps", progress, gate="", number=1), request(3, "ping")]
        async with one.open("POST", batch) as answer:
            assert answer.streams
            gate.open()
            events = await answer.events()
        answers = by_id([event.message for event in events if "id" in event.message])
        assert sorted(answers) == [1, 2, 3]
        assert text_of(answers[1]["result"]) == "through"
        assert len({event.id.rpartition(".")[0] for event in events}) == 1
        assert [int(event.id.rpartition(".")[2]) for event in events] == list(range(1, len(events) + 1))


async def test_what_is_refused_of_a_batch_is_answered_among_the_others(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    reader, _ = await platform.keys.issue("demo", scopes=["mcp:read"])
    async with client(api, key=reader) as one:
        await one.initialize(VERSION)
        batch = [
            call(1, "echo", text="x"),
            request(2, "ping"),
            {"jsonrpc": "2.0", "id": 3},
            request(4, "initialize", {}),
            7,
        ]
        answers = (await one.send("POST", batch)).json()
        assert len(answers) == 5
        codes = {answer["id"]: answer.get("error", {}).get("code") for answer in answers}
        assert codes == {1: -32000, 2: None, None: -32600, 4: -32600}


async def test_a_batch_of_which_all_is_refused_has_the_status_of_the_reason(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize(VERSION)
        lost = one.other(session="0" * 32)
        for batch in ([request(1, "ping"), request(2, "ping")], [INITIALIZED], [INITIALIZED, request(1, "ping")]):
            assert (await lost.send("POST", batch)).status_code == 404
        assert (await one.other(session="").send("POST", [request(1, "ping")])).status_code == 400
        assert (await one.send("POST", [request(1, "initialize", {})])).status_code == 400


async def test_a_batch_without_requests_is_acknowledged(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize(VERSION)
        await one.tell([INITIALIZED, {"jsonrpc": "2.0", "id": "no-question", "result": {}}])


@pytest.mark.parametrize("version", ["2025-06-18", LATEST])
async def test_other_revisions_have_no_batches(platform: Platform, version: str) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize(version)
        refused = await one.send("POST", [request(1, "ping")])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32600)


@pytest.mark.parametrize("size", [0, 101])
async def test_a_batch_has_one_to_a_hundred_messages(platform: Platform, size: int) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize(VERSION)
        refused = await one.send("POST", [request(number, "ping") for number in range(size)])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32600)
        answers = (await one.send("POST", [request(number, "ping") for number in range(100)])).json()
        assert sorted(answer["id"] for answer in answers) == list(range(100))
