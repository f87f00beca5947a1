"""A worker's slots: shared among tenants, and given back when it stops."""

from __future__ import annotations

import asyncio

from tests.journey import workshop
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import Stream, connect, text_of

from trunkline.streams.keys import Keys
from trunkline.streams.lost import LostWorkers
from trunkline.streams.workers import signs_of_life


async def send(stream: Stream, tool: str, gate: Gate) -> int:
    return await stream.send("tools/call", {"name": tool, "arguments": {"gate": gate.name}})


async def neighbour(platform: Platform) -> str:
    """The key of a tenant in the lane of `demo`, with the same toolset; its name is `other`."""
    keys = Keys(platform.settings)
    lane = keys.lane_of((await platform.tenants.get("demo")).id)
    while True:
        tenant = await platform.tenants.create("other")
        if keys.lane_of(tenant.id) == lane:
            break
        await platform.tenants.delete("other")
    await platform.tenants.enable("other", workshop.NAME)
    key, _ = await platform.keys.issue("other")
    return key


async def test_a_tenant_is_served_while_another_one_wants_all_slots_of_its_lane(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    worker = await platform.workshop(concurrency=4)
    key = await neighbour(platform)
    async with (
        connect(api, key=platform.key) as greedy,
        connect(api, "/t/other/sse", key=key) as modest,
    ):
        await greedy.initialize()
        await modest.initialize()
        sent = {await send(greedy, "wait", gate) for _ in range(40)}
        await gate.until(inside=3)
        assert text_of(await modest.call("whole", {"number": 7})) == "7"
        assert worker._metrics.slots_wanted.value > gate.most, "those that wait here are seen, too"
        gate.open()
        assert {(await greedy.event()).message["id"] for _ in sent} == sent
        assert gate.most == 3

    async def none_is_wanted() -> bool:
        await platform.redis.command("PING")
        return worker._metrics.slots_wanted.value == 0

    await eventually(none_is_wanted)


async def test_what_a_stopping_worker_has_not_begun_is_run_by_another(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    stopping = await platform.workshop(concurrency=4)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        sent = {await send(stream, "wait", gate) for _ in range(4)}
        await gate.until(inside=3)
        stopped = asyncio.create_task(platform.stop(stopping))
        await platform.workshop(concurrency=4)
        await gate.until(entered=4)
        gate.open()
        answers = [(await stream.event()).message for _ in sent]
        assert {answer["id"] for answer in answers} == sent
        assert {text_of(answer["result"]) for answer in answers} == {"through"}
        await stopped


async def test_what_may_be_repeated_goes_on_elsewhere_when_its_worker_may_not_wait_for_it(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    stopping = await platform.workshop(drain_timeout=0.1)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        again, once = await send(stream, "wait_again", gate), await send(stream, "wait", gate)
        await gate.until(inside=2)
        await platform.stop(stopping)
        assert (await stream.answer(once))["error"]["data"] == {"outcome": "unknown"}
        await platform.workshop()
        await gate.until(entered=3)
        gate.open()
        assert text_of((await stream.answer(again))["result"]) == "through"


async def test_a_worker_that_was_taken_for_dead_goes_on_with_a_call_that_it_is_given_again(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    await platform.workshop()
    lane = Keys(platform.settings).lane_of((await platform.tenants.get("demo")).id)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        sent = await send(stream, "wait_again", gate)
        await gate.until(inside=1)
        for _ in range(3):
            (worker,) = await signs_of_life(platform.redis)
            (fate,) = await LostWorkers(platform.redis).reclaim(lane, {worker: b""})
            assert fate.fate == "again"

            async def claims_again() -> bool:
                left = await platform.redis.command("XPENDING", Keys(platform.settings).calls(lane), "workers")
                return bool(left[0])

            await eventually(claims_again)
        gate.open()
        assert text_of((await stream.answer(sent))["result"]) == "through"
        assert gate.entered == 1
