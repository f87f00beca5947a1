"""What becomes of calls between a worker's claim and their one answer."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import Stream, connect, text_of

from trunkline.worker.run import WorkerProcess

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


async def send(stream: Stream, tool: str, **arguments: Any) -> int:
    """Send a call and do not wait for its answer."""
    return await stream.send("tools/call", {"name": tool, "arguments": arguments})


async def answers(stream: Stream, number: int) -> dict[int, dict[str, Any]]:
    """The next answers, by their JSON-RPC ids, each of which comes once."""
    found: dict[int, dict[str, Any]] = {}
    while len(found) < number:
        message = (await stream.event()).message
        if "id" in message:
            assert message["id"] not in found
            found[message["id"]] = message
    return found


async def nothing_unfinished(platform: Platform) -> bool:
    """Whether the tenant has no call in its lane, and none that counts against its limit."""
    tenant = platform.redis.keys.tenant((await platform.tenants.get("demo")).id)
    waiting = await platform.redis.command("XLEN", tenant.calls)
    in_flight = await platform.redis.command("HGET", tenant.usage, "inflight")
    return not waiting and not int(in_flight or 0) and not await platform.redis.command("ZCARD", tenant.deadlines)


async def test_a_call_past_its_deadline_is_answered_and_its_slot_comes_back(platform: Platform, gate: Gate) -> None:
    api = await platform.api(call_timeout=1)
    await platform.workshop(call_timeout=1, concurrency=1)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        answer = await stream.request("tools/call", {"name": "wait", "arguments": {"gate": gate.name}})
        assert answer["error"]["code"] == -32001
        await gate.until(inside=0, cancelled=1)
        assert text_of(await stream.call("echo", {"text": "next"})) == "next"
        await eventually(lambda: nothing_unfinished(platform))


async def test_progress_extends_the_deadline_up_to_the_longest_that_a_call_may_take(
    platform: Platform, gate: Gate
) -> None:
    limits = {"call_timeout": 0.5, "call_timeout_max": 1.5}
    api = await platform.api(**limits)
    await platform.workshop(**limits)
    loop = asyncio.get_running_loop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        began = loop.time()
        params = {"name": "plod", "arguments": {"gate": gate.name}, "_meta": {"progressToken": 1}}
        answer = await stream.request("tools/call", params)
        assert answer["error"]["code"] == -32001
        assert 1.4 < loop.time() - began < 5
        await gate.until(inside=0)
        seen = int(stream.last_id.partition(".")[2])
        assert seen > 8, "the progress of a second and more came before the answer"


async def test_nothing_of_a_call_comes_after_its_answer(platform: Platform, gate: Gate) -> None:
    api = await platform.api(call_timeout=0.3)
    await platform.workshop(call_timeout=0.3)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        late = await send(stream, "block", gate=gate.name)
        assert (await stream.answer(late))["error"]["code"] == -32001
        gate.open()
        await gate.until(inside=0)
        for _ in range(3):
            await stream.request("ping")


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
async def test_a_blocking_tool_that_nobody_waits_for_keeps_its_slot_until_it_returns(
    platform: Platform, gate: Gate, how: str
) -> None:
    timeout = 1.0 if how == "deadline" else 30.0
    api = await platform.api(call_timeout=timeout)
    await platform.workshop(call_timeout=timeout, concurrency=1)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        hanging = await send(stream, "block", gate=gate.name)
        await gate.until(inside=1)
        if how == "deadline":
            assert (await stream.answer(hanging))["error"]["code"] == -32001
        else:
            await stream.notify("notifications/cancelled", {"requestId": hanging})
        waiting = await platform.api()  # its deadlines are long
        stream.base = waiting
        after = await stream.send("ping")
        await eventually(lambda: still(platform, gate))
        gate.open()
        assert (await stream.answer(after))["result"] == {}
        await gate.until(inside=0)
        await eventually(lambda: nothing_unfinished(platform))


async def still(platform: Platform, gate: Gate) -> bool:
    """The ping waits in the lane, and is not taken up by what looks like a free slot."""
    tenant = platform.redis.keys.tenant((await platform.tenants.get("demo")).id)
    for _ in range(20):
        assert await platform.redis.command("ZCARD", tenant.deadlines) == 1
    return gate.inside == 1


async def test_cancelling_reaches_the_worker_that_runs_the_call_and_no_answer_follows(
    platform: Platform, gate: Gate
) -> None:
    api, other = await platform.api(), await platform.api()
    await platform.workshop()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        running = await send(stream, "wait", gate=gate.name)
        await gate.until(inside=1)
        stream.base = other
        await stream.notify("notifications/cancelled", {"requestId": running, "reason": "changed my mind"})
        await gate.until(inside=0, cancelled=1)
        assert (await stream.request("ping"))["result"] == {}
        await eventually(lambda: nothing_unfinished(platform))


async def test_a_cancelled_call_that_no_worker_has_claimed_never_runs(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop(concurrency=1)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        first = await send(stream, "wait", gate=gate.name)
        await gate.until(inside=1)
        second = await send(stream, "wait", gate=gate.name)
        await stream.notify("notifications/cancelled", {"requestId": second})
        gate.open()
        assert text_of((await stream.answer(first))["result"]) == "through"
        await stream.request("ping")
        assert gate.entered == 1


async def test_cancelling_what_was_answered_never_was_or_is_anothers_changes_nothing(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream, connect(api, key=platform.key) as other:
        await stream.initialize()
        await other.initialize()
        theirs = await send(stream, "wait", gate=gate.name)
        await gate.until(inside=1)
        for request_id in (theirs, "nothing", 10**30, -1):
            body = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}'
            quoted = orjson.dumps(request_id) if isinstance(request_id, str) else b"%d" % request_id
            assert (await other.post(body % quoted)).status_code in {202, 400}
        gate.open()
        assert text_of((await stream.answer(theirs))["result"]) == "through"
        await stream.notify("notifications/cancelled", {"requestId": theirs})
        assert (await stream.request("ping"))["result"] == {}


async def test_a_worker_never_runs_more_calls_than_it_has_slots(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop(concurrency=3)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        sent = [await send(stream, "wait", gate=gate.name) for _ in range(10)]
        await gate.until(inside=3)
        gate.open()
        assert set(await answers(stream, 10)) == set(sent)
        assert gate.most == 3


async def test_two_workers_share_what_one_alone_could_not_run(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop(concurrency=2)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for _ in range(4):
            await send(stream, "wait", gate=gate.name)
        await gate.until(inside=2)
        await platform.workshop(concurrency=2)  # started later, it takes what waits
        await gate.until(inside=4)
        gate.open()
        assert {text_of(each["result"]) for each in (await answers(stream, 4)).values()} == {"through"}


async def test_a_worker_that_is_started_later_takes_the_calls_that_wait(platform: Platform) -> None:
    api = await platform.api()
    async with connect(api, key=platform.key) as stream:
        first = await stream.send("ping")
        second = await stream.send("ping")
        await platform.worker()
        assert set(await answers(stream, 2)) == {first, second}


async def test_blocking_tools_run_side_by_side_and_hold_nobody_up(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        blocked = [await send(stream, "block", gate=gate.name) for _ in range(4)]
        await gate.until(inside=4)
        assert text_of(await stream.call("echo", {"text": "not held up"})) == "not held up"
        gate.open()
        threads = {text_of(each["result"]) for each in (await answers(stream, 4)).values()}
        assert len(threads) == len(blocked)


async def test_a_worker_that_stops_finishes_what_runs_and_claims_nothing_more(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    worker = await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        running = await send(stream, "wait", gate=gate.name)
        await gate.until(inside=1)
        stopping = asyncio.create_task(platform.stop(worker))
        await eventually(lambda: claims_no_more(worker))
        waiting = await send(stream, "wait", gate=gate.name)
        gate.open()
        assert text_of((await stream.answer(running))["result"]) == "through"
        await stopping
        assert gate.entered == 1
        await platform.workshop()
        assert text_of((await stream.answer(waiting))["result"]) == "through"


async def claims_no_more(worker: WorkerProcess) -> bool:
    await asyncio.sleep(0)
    return worker._consumer._claiming.reader is None


async def test_a_worker_that_stops_answers_what_does_not_end_in_time(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    worker = await platform.workshop(drain_timeout=0.2)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        running = await send(stream, "wait", gate=gate.name)
        await gate.until(inside=1)
        await platform.stop(worker)
        assert "unknown" in (await stream.answer(running))["error"]["message"]
        assert gate.cancelled == 1


async def test_a_result_larger_than_can_be_delivered_is_an_error_and_smaller_ones_arrive(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop(outbox_max_bytes=2_000_000)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        answer = await stream.request("tools/call", {"name": "grow", "arguments": {"size": 2_000_000}})
        assert answer["error"]["code"] == -32603
        assert "larger" in answer["error"]["message"]
        assert len(text_of(await stream.call("grow", {"size": 1_500_000}))) == 1_500_000


async def test_values_that_json_libraries_disagree_about_arrive_as_the_tool_gave_them(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for what, text in (("surrogate", '"\\ud800"'), ("integer", str(2**70 + 1)), ("nan", "null")):
            await send(stream, "odd", what=what)
            assert f'"structuredContent":{{"value":{text}}}' in (await stream.event()).data
        await send(stream, "refuse")
        assert '"error":{"code":-32050,"message":"\\ud800"}' in (await stream.event()).data


async def test_integers_up_to_64_bits_reach_the_tool_whole(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for number in (2**53 + 1, 2**63, 2**64 - 1, -(2**63)):
            body = (
                b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whole","arguments":{"number":%d}}}'
            )
            assert (await stream.post(body % number)).status_code == 202
            assert text_of((await stream.answer(1))["result"]) == str(number)
