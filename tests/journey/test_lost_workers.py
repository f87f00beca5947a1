"""Calls that no worker takes, and tools that would take the worker with them."""

from __future__ import annotations

import asyncio

import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import PATIENCE, connect, text_of

from trunkline.envelope import Call
from trunkline.streams.attempts import Attempts, Verdict


@pytest.mark.parametrize("tool", ["leave", "leave_from_a_thread", "give_up"])
async def test_a_tool_that_would_end_its_worker_ends_only_its_call(platform: Platform, tool: str, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        answer = await stream.request("tools/call", {"name": tool, "arguments": {}})
        assert answer["error"]["code"] == -32603
        gate.open()
        assert text_of(await stream.call("wait", {"gate": gate.name})) == "through"


async def test_a_call_is_answered_at_its_deadline_without_any_worker(platform: Platform) -> None:
    api = await platform.api(call_timeout=0.1, call_timeout_max=0.1)
    async with connect(api, key=platform.key) as stream:
        answer = await stream.request("ping")
        assert answer["error"]["code"] == -32001


async def test_a_call_that_is_given_out_again_while_its_start_is_recorded_is_begun(
    platform: Platform, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await platform.api()
    worker = await platform.workshop()
    start, renew = Attempts.start, worker._consumer._renew
    again = asyncio.Event()

    def renewed(call: Call) -> None:
        renew(call)
        again.set()

    async def start_while_the_connection_breaks(attempts: Attempts, call: Call, repeatable: bool) -> Verdict:
        verdict = await start(attempts, call, repeatable)
        reader = worker._consumer._claiming.reader
        if reader is not None and not again.is_set():
            reader._connection.close()  # what was claimed is read again
        await again.wait()
        return verdict

    monkeypatch.setattr(worker._consumer, "_renew", renewed)
    monkeypatch.setattr(Attempts, "start", start_while_the_connection_breaks)
    async with connect(api, key=platform.key) as stream, asyncio.timeout(PATIENCE):
        await stream.initialize()
        gate.open()
        assert text_of(await stream.call("wait", {"gate": gate.name})) == "through"


async def test_a_call_whose_time_is_over_is_not_begun(platform: Platform, gate: Gate) -> None:
    api = await platform.api(call_timeout=0.1, call_timeout_max=0.1)
    lane = platform.redis.keys.tenant((await platform.tenants.get("demo")).id)
    async with connect(api, key=platform.key) as stream:
        request = {"name": "wait", "arguments": {"gate": gate.name}}
        number = await stream.send("tools/call", request)

        async def is_late() -> bool:
            seconds, microseconds = await platform.redis.command("TIME")
            now = int(seconds) * 1000 + int(microseconds) // 1000
            return bool(await platform.redis.command("ZCOUNT", lane.deadlines, "-inf", now))

        await eventually(is_late)
        await platform.workshop()
        answer = await stream.answer(number)
        assert answer["error"]["code"] == -32001
        assert gate.entered == 0
