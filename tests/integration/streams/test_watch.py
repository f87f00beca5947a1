"""What API pods tell of all lanes, as it is in Redis; and that a store is away."""

from __future__ import annotations

import math
import secrets
import time

from tests.integration.streams.conftest import Wire

from trunkline.errors import Unavailable
from trunkline.metrics import Metrics
from trunkline.streams.client import Redis
from trunkline.streams.watch import Watch
from trunkline.streams.workers import first_beat


async def answers() -> None:
    """A Postgres that is there."""


async def refuses() -> None:
    raise Unavailable("Postgres is away; try again shortly.")


async def looked(redis: Redis, *, lanes: bool = True) -> Metrics:
    metrics = Metrics("api")
    await Watch(redis, answers, metrics, lanes=lanes).look()
    return metrics


async def test_what_no_worker_has_claimed_is_the_backlog_and_has_an_age(wire: Wire) -> None:
    before = time.monotonic()
    for _ in range(3):
        await wire.accept()
    metrics = await looked(wire.redis)
    assert (metrics.backlog_calls.value, metrics.pending_calls.value) == (3, 3)
    assert metrics.backlog_oldest_seconds.value <= time.monotonic() - before + 0.002

    await wire.claim(1)
    metrics = await looked(wire.redis)
    assert (metrics.backlog_calls.value, metrics.pending_calls.value) == (2, 3)

    await wire.claim()
    metrics = await looked(wire.redis)
    assert (metrics.backlog_calls.value, metrics.pending_calls.value) == (0, 3)
    assert metrics.backlog_oldest_seconds.value == 0


async def test_a_tenants_surplus_waits_too(wire: Wire) -> None:
    await wire.redis.command("SET", wire.redis.keys.slots(wire.redis.keys.lane_of(wire.owner.tenant)), 1)
    for _ in range(4):
        await wire.accept()
    metrics = await looked(wire.redis)
    assert await wire.redis.command("XLEN", wire.redis.keys.tenant(wire.owner.tenant).calls) < 4
    assert metrics.backlog_calls.value == 4


async def test_audit_events_that_are_not_written_have_a_number_and_an_age(wire: Wire) -> None:
    await wire.accept(seed=b'["key_1","once"]')
    (call,) = await wire.claim()
    await wire.outbox.publish(call, b"{}", "ok")
    metrics = await looked(wire.redis)
    assert metrics.audit_backlog_events.value == 1
    assert metrics.audit_oldest_seconds.value >= 0
    assert metrics.pending_calls.value == 0


async def test_living_workers_and_their_slots_are_counted(redis: Redis) -> None:
    await first_beat(redis, "w1", 64)
    await first_beat(redis, "w2", 8)
    metrics = await looked(redis)
    assert (metrics.workers.value, metrics.worker_slots.value) == (2, 72)


async def test_nothing_at_all_is_zero(redis: Redis) -> None:
    metrics = await looked(redis)
    assert [gauge.value for gauge in metrics.of_lanes] == [0] * len(metrics.of_lanes)


async def test_a_worker_tells_of_the_stores_alone(redis: Redis) -> None:
    metrics = await looked(redis, lanes=False)
    assert (metrics.store_up["redis"].value, metrics.store_up["postgres"].value) == (1, 1)
    assert metrics.store_seconds["redis"].value > 0
    assert all(math.isnan(gauge.value) for gauge in metrics.of_lanes)


async def test_a_store_that_is_away_is_down_and_what_it_knew_is_not_a_number(redis: Redis) -> None:
    metrics = await looked(redis)
    await redis.aclose()
    await Watch(redis, refuses, metrics, lanes=True).look()
    for store in ("redis", "postgres"):
        assert metrics.store_up[store].value == 0
        assert metrics.store_failures_total[store].value == 1
    assert all(math.isnan(gauge.value) for gauge in metrics.of_lanes)
    assert b'trunkline_store_up{store="redis"} 0.0' in metrics.render()
    assert b"trunkline_backlog_calls NaN" in metrics.render()


async def test_a_connection_that_was_lost_between_two_looks_is_seen_by_the_one_opened_for_it(redis: Redis) -> None:
    metrics = await looked(redis)
    assert metrics.redis_reconnects_total.value == 0
    await redis.command("CLIENT", "KILL", "SKIPME", "no", "ID", await redis.command("CLIENT", "ID"))
    metrics = await looked(redis)
    assert metrics.store_up["redis"].value == 1
    assert metrics.redis_reconnects_total.value == 1


async def test_a_redis_that_refuses_to_answer_is_away_and_ends_nothing(redis: Redis) -> None:
    user = f"user-{secrets.token_hex(6)}"
    await redis.command("ACL", "SETUSER", user, "on", ">secret", "~*", "+auth")
    try:
        await redis.command("AUTH", user, "secret")
        metrics = await looked(redis)
        assert metrics.store_up["redis"].value == 0
        assert all(math.isnan(gauge.value) for gauge in metrics.of_lanes)
    finally:
        admin = await redis.dial("admin")
        await admin.send("ACL", "DELUSER", user)
        admin.close()
        await admin.lost
