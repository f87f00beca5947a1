"""Where replicas are to have what was done: what happens while they are away, and that little is asked of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import uuid_utils
from faults.proxy import Proxy
from faults.sentinels import Node, ReplicatedRedis
from tests.integration.streams.conftest import PLENTY, Wire
from tests.stores import open_directory

from trunkline.api.confirmed import Confirmed
from trunkline.errors import SessionNotFound, Unavailable
from trunkline.settings import Settings, load_settings
from trunkline.streams.attempts import Attempts, Verdict
from trunkline.streams.bounds import Bounds
from trunkline.streams.calls import Message, Opening, Place
from trunkline.streams.client import Redis
from trunkline.streams.replicas import UNKNOWN, NotConfirmed
from trunkline.streams.sessions import Owner, Sessions, new_session_id

PATIENCE = 20.0
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def pair() -> Iterator[ReplicatedRedis]:
    """A primary, the first of its nodes, and a replica."""
    with open_directory() as directory:
        made = ReplicatedRedis(directory)
        try:
            asyncio.run(made.start())
            yield made
        finally:
            made.end()


@pytest.fixture
def primary(pair: ReplicatedRedis) -> Node:
    return pair.nodes[0]


@pytest.fixture
def redis_settings(pair: ReplicatedRedis, primary: Node) -> Settings:
    return load_settings(
        environment="dev",
        redis_url=pair.url(primary),
        redis_prefix=f"test-{secrets.token_hex(6)}:",
        lanes=4,
        redis_wait_replicas=1,
        redis_wait_timeout=0.2,
    )


class Held:
    """What is under way while the replica is away, and what comes of it once it is back."""

    def __init__(self, pair: ReplicatedRedis, primary: Node) -> None:
        self._pair = pair
        self._primary = primary

    async def until_back(self, work: Coroutine[Any, Any, Result] | Awaitable[Result]) -> Result:
        """Something that was begun waits until the replica is back, and longer than REDIS_WAIT_TIMEOUT."""
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=0.3)
        assert not done
        await self.release()
        async with asyncio.timeout(PATIENCE):
            return await task

    async def hold(self) -> None:
        await self._pair.hold_replication(self._primary)

    async def release(self) -> None:
        await self._pair.release_replication(self._primary)


@pytest.fixture
async def replica(pair: ReplicatedRedis, primary: Node) -> AsyncIterator[Held]:
    """The replica, which a test sends away; it is back when the test ends."""
    made = Held(pair, primary)
    yield made
    await made.release()


async def test_what_is_accepted_is_on_the_replica_when_the_client_hears_of_it(
    wire: Wire, pair: ReplicatedRedis, primary: Node
) -> None:
    for _ in range(5):
        call = await wire.accept()
        session = wire.redis.keys.stream(wire.owner.tenant, wire.session)[0]
        assert await pair.ask(pair.besides(primary), "HEXISTS", session, f"p:{call}") == 1


async def test_what_comes_together_is_confirmed_together(wire: Wire, pair: ReplicatedRedis, primary: Node) -> None:
    await pair.ask(primary, "CONFIG", "RESETSTAT")
    await asyncio.gather(*(wire.accept() for _ in range(200)))
    statistics = (await pair.ask(primary, "INFO", "commandstats")).decode()
    waits = int(statistics.split("cmdstat_wait:calls=")[1].split(",")[0])
    assert waits <= 8


async def lanes(wire: Wire) -> dict[str, int]:
    keys = wire.redis.keys
    tenant = keys.tenant(wire.owner.tenant)
    lane = keys.lane_of(wire.owner.tenant)
    return {
        "in the lane": await wire.redis.command("XLEN", tenant.calls),
        "due": await wire.redis.command("ZCARD", tenant.deadlines),
        "in flight": await wire.in_flight(),
        "pending": await wire.pending(),
        "audited": await wire.redis.command("XLEN", keys.audit(lane)),
        "open": await wire.redis.command("ZCARD", f"{tenant.base}quota:open"),
    }


async def test_what_no_replica_had_in_time_is_refused_and_leaves_no_trace(wire: Wire, replica: Held) -> None:
    metered = Bounds.of(1e6, 1_000_000, 1000, quota=(9, None, None, None), life_ms=660_000).regardless()
    await replica.hold()
    async with asyncio.timeout(PATIENCE):
        for bounds in (PLENTY, metered):
            with pytest.raises(NotConfirmed) as refused:
                await wire.accept(seed=b'["key_0a1","add","pod-a","aGFzaA=="]', bounds=bounds)
            assert (refused.value.status, refused.value.retry_after) == (503, 1)
    assert set((await lanes(wire)).values()) == {0}


async def test_a_session_that_was_to_be_opened_by_it_leaves_with_it(wire: Wire, replica: Held) -> None:
    owner, session = Owner(wire.owner.tenant, "key_one", "http"), new_session_id()
    call = uuid_utils.uuid7().hex
    place = Place(call, "pod-a", "http", Opening(b"{}", 10))
    await replica.hold()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(NotConfirmed):
            await wire.calls.accept(owner, Message(call, session, b"0", b"{}", place=place), PLENTY)
    sessions = wire.redis.keys.tenant(owner.tenant).sessions
    assert await wire.redis.command("ZRANGE", sessions, 0, -1) == [wire.session.encode()]
    with pytest.raises(SessionNotFound):
        await wire.calls.cancel(owner, session, b"0")


async def test_what_a_redis_that_went_away_may_have_accepted_is_taken_back_when_it_is_found(wire: Wire) -> None:
    call = await wire.accept()  # as on a replica that has taken over
    message = Message(call, wire.session, b"1", b"{}")
    lane = wire.redis.keys.lane_of(wire.owner.tenant)
    assert await wire.calls._take_back(lane, [(wire.owner, message)], UNKNOWN) == [[b"unconfirmed", 1000]]
    async with asyncio.timeout(PATIENCE):
        while set((await lanes(wire)).values()) != {0}:
            pass


async def test_what_was_begun_or_answered_meanwhile_stays_accepted(wire: Wire) -> None:
    calls = [await wire.accept(request_id=number) for number in (b"1", b"2", b"3")]
    begun, answered, _ = await wire.claim()
    await Attempts(wire.redis, "w1").start(begun, repeatable=False)
    await wire.outbox.publish(answered, b"{}", "ok")
    accepted = [(wire.owner, Message(call, wire.session, b"1", b"{}")) for call in calls]
    lane = wire.redis.keys.lane_of(wire.owner.tenant)
    assert await wire.calls._take_back(lane, accepted, [7, 8, 9]) == [7, 8, [b"unconfirmed", 1000]]
    assert await wire.pending() == 1


async def test_a_refusal_of_another_kind_stays_what_it_is(wire: Wire, replica: Held) -> None:
    await replica.hold()
    wire.session = new_session_id()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises((SessionNotFound, NotConfirmed)) as refused:
            await wire.accept()
    assert isinstance(refused.value, SessionNotFound)


@pytest.fixture
async def careless(redis_settings: Settings) -> AsyncIterator[Redis]:
    """A way to the same Redis that waits for no replica."""
    redis = await Redis.connect(redis_settings.model_copy(update={"redis_wait_replicas": 0}), "test")
    yield redis
    await redis.aclose()


async def test_what_a_replica_does_not_know_to_be_claimed_is_not_begun(
    wire: Wire, replica: Held, careless: Redis
) -> None:
    await replica.hold()
    for number in (b"1", b"2"):
        message = Message(uuid_utils.uuid7().hex, wire.session, number, b"{}")
        await type(wire.calls)(careless).accept(wire.owner, message, PLENTY)
    claiming = asyncio.create_task(wire.claim())
    async with asyncio.timeout(PATIENCE):
        while not (await careless.command("XPENDING", careless.keys.tenant(wire.owner.tenant).calls, "workers"))[0]:
            pass
    (taken_back,) = await type(wire.calls)(careless).cancel(wire.owner, wire.session, b"1")
    wire.reader.forget(taken_back)
    assert len(await replica.until_back(claiming)) == 1


async def test_a_worker_that_stops_does_not_wait_for_replicas(wire: Wire, replica: Held, careless: Redis) -> None:
    await wire.reader.identify()
    await replica.hold()
    message = Message(uuid_utils.uuid7().hex, wire.session, b"1", b"{}")
    await type(wire.calls)(careless).accept(wire.owner, message, PLENTY)
    claiming = asyncio.create_task(wire.claim())
    async with asyncio.timeout(PATIENCE):
        while not (await careless.command("XPENDING", careless.keys.tenant(wire.owner.tenant).calls, "workers"))[0]:
            pass
        await wire.reader.unblock()
        assert [call.id for call in await claiming] == [message.call]


async def test_a_stop_that_comes_before_the_answer_to_a_claim_does_not_wait_for_replicas_either(
    wire: Wire, replica: Held, careless: Redis
) -> None:
    await wire.reader.identify()
    await replica.hold()
    message = Message(uuid_utils.uuid7().hex, wire.session, b"1", b"{}")
    await type(wire.calls)(careless).accept(wire.owner, message, PLENTY)
    await wire.reader.unblock()
    async with asyncio.timeout(PATIENCE):
        assert [call.id for call in await wire.claim()] == [message.call]


async def test_a_start_and_an_answer_wait_for_the_replica(wire: Wire, replica: Held) -> None:
    await wire.accept()
    (call,) = await wire.claim()
    await replica.hold()
    assert await replica.until_back(Attempts(wire.redis, "w1").start(call, repeatable=False)) is Verdict.GO
    await replica.hold()
    assert await replica.until_back(wire.outbox.publish(call, b"{}", "ok")) == 1
    assert set((await lanes(wire)).values()) == {0}


async def test_a_pod_learns_nothing_of_a_stream_that_a_replica_does_not_know(wire: Wire, replica: Held) -> None:
    await replica.hold()
    async with asyncio.timeout(PATIENCE):
        for asked in (
            wire.sessions.attach(wire.owner, wire.session, None),
            wire.sessions.touch(wire.owner.tenant, wire.session, 1),
            wire.sessions.missed(wire.owner.tenant, wire.session, 0),
        ):
            with pytest.raises(Unavailable):
                await asked
        # Opening one is no promise yet: nothing is accepted in it.
        await Sessions(wire.redis, "pod-a").open(wire.owner, new_session_id(), b"{}", 10)


async def test_what_was_published_is_delivered_in_order_once_the_replica_has_it(wire: Wire, replica: Held) -> None:
    delivered: list[bytes] = []
    all_of_it = asyncio.Event()

    def deliver(_: bytes, payload: bytes) -> None:
        delivered.append(payload)
        if payload == b"3":
            all_of_it.set()

    assert wire.redis.replicas is not None
    confirmed = Confirmed(wire.redis, wire.redis.replicas, deliver, lambda: None)
    source = await wire.redis.dial("test")
    running = asyncio.create_task(confirmed.run())
    await replica.hold()
    for number in (b"1", b"2", b"3"):
        confirmed.put(source, b"", number)
    await replica.until_back(all_of_it.wait())
    assert delivered == [b"1", b"2", b"3"]
    running.cancel()
    source.close()
    await asyncio.gather(running, source.lost, return_exceptions=True)


async def test_what_another_server_published_is_dropped_and_its_connection_closed(
    wire: Wire, pair: ReplicatedRedis, primary: Node, redis_settings: Settings
) -> None:
    other = Redis(redis_settings.model_copy(update={"redis_url": pair.url(pair.besides(primary))}), "test")
    source = await other.dial("test")
    assert wire.redis.replicas is not None
    async with asyncio.timeout(PATIENCE):
        assert not await wire.redis.reached(wire.redis.replicas, source)
        await source.lost
    await other.aclose()


async def test_behind_one_name_the_server_that_was_demoted_is_left_for_the_one_that_took_over(
    pair: ReplicatedRedis, primary: Node, redis_settings: Settings
) -> None:
    other, place = pair.besides(primary), "127.0.0.1"
    proxy = Proxy(place, primary.port)
    url = pair.url(primary).replace(f":{primary.port}/", f":{await proxy.start()}/")
    redis = await Redis.connect(redis_settings.model_copy(update={"redis_url": url}), "test")
    try:
        await pair.ask(other, "REPLICAOF", "NO", "ONE")
        await pair.ask(primary, "REPLICAOF", place, str(other.port))
        proxy.lead_to(place, other.port)
        with pytest.raises(Unavailable, match="accepts no writes"):
            await redis.command("SET", f"{redis.keys.prefix}a", "1")
        await redis.command("SET", f"{redis.keys.prefix}a", "2")
        assert await pair.ask(other, "GET", f"{redis.keys.prefix}a") == b"2"
    finally:
        await redis.aclose()
        await proxy.aclose()
        await pair.ask(primary, "REPLICAOF", "NO", "ONE")
        await pair.ask(other, "REPLICAOF", place, str(primary.port))
        await pair.release_replication(primary)
