"""What becomes of POSTs of streamable HTTP that are held while Redis fails; more of it is in `test_redis.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from faults.proxy import Proxy
from tests.faults.outages import Server, until
from tests.faults.posts import posting
from tests.journey.conftest import Platform
from tests.journey.workshop import Gate, gates

from trunkline.api.run import ApiProcess

PATIENCE = 20.0


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gates["held"] = Gate("held")
    yield gates["held"]
    gates.pop("held").open()


async def test_calls_that_waited_for_redis_get_their_results(platform: Platform, proxy: Proxy) -> None:
    api = await platform.api()
    await platform.worker()
    async with (
        posting(api, platform.key) as posts,
        httpx2.AsyncClient(trust_env=False) as http,
        asyncio.timeout(PATIENCE * 2),
    ):
        held = platform.process(ApiProcess)._connections

        async def held_and_away() -> bool:
            return (await http.get(f"{api}/readyz")).status_code == 503 and len(list(held.streams())) == 2

        proxy.cut()
        posts.hold("echo", text="waited")
        await until(held_and_away)
        proxy.heal()
        assert await posts.texts() == ["waited", "waited"]


async def test_calls_that_redis_has_lost_with_all_its_data_are_answered_by_the_pod(
    platform: Platform, server: Server, gate: Gate
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with posting(api, platform.key) as posts, asyncio.timeout(PATIENCE):
        posts.hold("wait", gate="held")
        await gate.until(inside=2)
        await server.ask("FLUSHALL")
        await server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        answers = await posts.answers()
    assert [answer["error"]["data"] for answer in answers] == [{"outcome": "unknown"}] * 2
