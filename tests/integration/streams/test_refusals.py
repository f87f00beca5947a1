"""A Redis that takes no writes: calls are refused before acceptance, answers are kept and published later."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.integration.streams.conftest import Wire
from tests.stores import open_directory
from uuid_utils import uuid7

from trunkline.dev.data import DataDirectory
from trunkline.dev.stores import running_stores
from trunkline.errors import SessionNotFound, Unavailable
from trunkline.streams.bounds import Bounds, Share
from trunkline.streams.calls import Message
from trunkline.streams.sessions import Sessions, new_session_id


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
    assert await wire.redis.command("XLEN", wire.redis.keys.audit(wire.redis.keys.lane_of(wire.owner.tenant))) == 1


@pytest.mark.parametrize(
    "share", [None, Share("key_0a1", in_flight=9), Share("key_0a1", quota=(9, None, None, None))]
)
async def test_a_full_redis_refuses_metered_calls_too_and_lets_them_end(wire: Wire, share: Share | None) -> None:
    quota = (None if share else 9, None, None, None)
    limits = Bounds.of(1e6, 1_000_000, 1000, quota=quota, share=share, life_ms=660_000).regardless()

    async def send(request_id: bytes) -> None:
        seed = b'["key_0a1","add","pod-a","aGFzaA=="]'
        await wire.calls.accept(wire.owner, Message(uuid7().hex, wire.session, request_id, b"{}", seed), limits)

    await send(b"1")
    operator = await wire.redis.dial("test")
    await operator.send("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(Unavailable):
        await send(b"2")
    assert (await wire.pending(), await wire.in_flight()) == (1, 1)
    await wire.calls.cancel(wire.owner, wire.session, b"1")
    assert (await wire.pending(), await wire.in_flight()) == (0, 0)
    await operator.send("CONFIG", "SET", "maxmemory", "0")
    operator.close()
    await operator.lost


async def test_a_full_redis_refuses_new_sessions_and_keeps_those_that_were_left(wire: Wire) -> None:
    tenant = wire.redis.keys.tenant(wire.owner.tenant)
    # One ended long ago, one was left half an hour ago: something to be cleared away, before or after the refusal.
    seconds, _ = await wire.redis.command("TIME")
    await wire.redis.command("ZADD", tenant.sessions, (int(seconds) - 60) * 1000, "ended")
    await wire.redis.command("ZADD", tenant.sessions, "XX", (int(seconds) + 60) * 1000, wire.session)
    operator = await wire.redis.dial("test")
    await operator.send("CONFIG", "SET", "maxmemory", "1")
    session = new_session_id()
    with pytest.raises(Unavailable):
        await wire.sessions.open(wire.owner, session, b"{}", 1)
    await operator.send("CONFIG", "SET", "maxmemory", "0")
    operator.close()
    assert await wire.redis.command("ZCARD", tenant.sessions) == 2
    with pytest.raises(SessionNotFound):
        await wire.sessions.attach(wire.owner, session, 0)
    assert (await wire.sessions.attach(wire.owner, wire.session, 0)).generation == 2


async def test_a_resume_that_a_full_redis_refuses_ends_no_stream(wire: Wire) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def push(reply: list[bytes]) -> None:
        heard.put_nowait(reply[2] if reply[0] == b"message" else reply[0])

    channel = f"{wire.redis.keys.tenant(wire.owner.tenant).pods}pod-a"
    listener, operator = await wire.redis.dial("listener", on_push=push), await wire.redis.dial("operator")
    listener.push("SUBSCRIBE", channel)
    async with asyncio.timeout(10):
        assert await heard.get() == b"subscribe"
        await operator.send("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable):
            await Sessions(wire.redis, "pod-b").attach(wire.owner, wire.session, 0)
        await operator.send("CONFIG", "SET", "maxmemory", "0")
        await operator.send("PUBLISH", channel, b"after the refusal")
        first = await heard.get()
    for connection in (listener, operator):
        connection.close()
        await connection.lost
    assert first == b"after the refusal"
    assert (await Sessions(wire.redis, "pod-b").attach(wire.owner, wire.session, 0)).generation == 2
