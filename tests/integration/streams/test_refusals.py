"""A Redis that takes no writes: calls are refused before acceptance, answers are kept and published later."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.integration.streams.conftest import Wire
from tests.stores import open_directory

from trunkline.dev.data import DataDirectory
from trunkline.dev.stores import running_stores
from trunkline.errors import Unavailable


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Redis of this test's own: it is about to be full."""
    with open_directory() as directory:
        data = DataDirectory(directory / "data")
        with data.locked(), running_stores(data, database_url="postgresql://nowhere", durable=False) as stores:
            yield stores.redis_url


async def test_a_full_redis_refuses_calls_and_loses_no_answer(wire: Wire) -> None:
    await wire.accept(seed=b'{"id":1}')
    (claimed,) = await wire.claim()
    operator = await wire.redis.dial("test")
    await operator.send("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(Unavailable):
        await wire.accept()
    publishing = asyncio.create_task(wire.outbox.publish(claimed, b"{}", "ok"))
    done, _ = await asyncio.wait({publishing}, timeout=0.2)
    assert not done
    assert await wire.pending() == 1
    await operator.send("CONFIG", "SET", "maxmemory", "0")
    operator.close()
    async with asyncio.timeout(10):
        assert await publishing == 1
    assert await wire.pending() == 0
    assert await wire.redis.command("XLEN", wire.redis.keys.tenant(wire.owner.tenant).audit) == 1
