"""A POST of streamable HTTP that is held while Redis is away is answered as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from faults.proxy import Proxy
from tests.faults.outages import at_port, own_server, proxied, until
from tests.journey.conftest import Platform, platform_on
from tests.streamable import call, client

from trunkline.api.run import ApiProcess
from trunkline.settings import Settings

PATIENCE = 20.0


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy in front of a Redis of the test's own, and its URL past the proxy."""
    with own_server() as server:
        async with proxied(server.port) as made:
            yield made, server.url


@pytest.fixture
async def platform(settings: Settings, proxy: tuple[Proxy, str]) -> AsyncIterator[Platform]:
    """A deployment whose pods reach that Redis through the proxy."""
    changes = {"redis_url": at_port(proxy[1], proxy[0].port), "lanes": 4, "drain_timeout": 5.0}
    async with platform_on(settings.model_copy(update=changes)) as made:
        yield made


async def test_calls_that_waited_for_redis_get_their_results(platform: Platform, proxy: tuple[Proxy, str]) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as user, asyncio.timeout(PATIENCE * 2):
        stateless = user.other()
        await user.initialize()
        held = platform.process(ApiProcess)._connections

        async def are_held() -> bool:
            await asyncio.sleep(0)
            return len(list(held.streams())) == 4

        async def is_away() -> bool:
            return (await user.http.get(f"{api}/readyz")).status_code == 503

        for _ in range(2):
            proxy[0].cut()
            asking = [
                asyncio.create_task(ask(call(number, "echo", text="waited")))
                for number, ask in enumerate((user.ask, stateless.modern) * 2)
            ]
            await until(are_held)
            await until(is_away)
            proxy[0].heal()
            for answer in await asyncio.gather(*asking):
                assert "result" in answer, answer
