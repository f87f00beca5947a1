"""What was used of a quota, told to Redis from the log: whatever is on its way, each call once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from uuid_utils import uuid7

from trunkline.audit.arrived import read_event
from trunkline.audit.heads import Heads
from trunkline.db import Database, task_scope
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.quotas import QuotaUse, Used
from trunkline.tenants.model import Tenant
from trunkline.tenants.quotas import QuotaSeeder, month_ends, month_of
from trunkline.tenants.tenants import Tenants

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
KEY = "key_" + "1" * 32


@pytest.fixture
async def acme(tenants: Tenants) -> Tenant:
    return await tenants.create("acme")


@pytest.fixture
def seeder(settings: Settings, redis: Redis, database: Database) -> QuotaSeeder:
    return QuotaSeeder(redis, database, settings.secret_key)


def event(redis: Redis, tenant: str, actor: str = KEY, days_ago: float = 0) -> list[bytes]:
    """A call that has ended, as scripts tell of it."""
    at = int(redis.clock.now_ms() - days_ago * 86_400_000)
    member = f"{tenant}:{'5' * 32}:{uuid7().hex}"
    seed = f'["{actor}","echo","api-0","{"A" * 43}=",100]'
    head = (member, "ok", "1500", "20", "worker-0", str(at + 5), str(at), "1")
    return [line.encode() for line in (*head, seed)]


async def on_its_way(redis: Redis, tenant: str, *events: list[bytes]) -> None:
    """Put events into the lane's stream, as one entry."""
    stream = redis.keys.audit(redis.keys.lane_of(tenant))
    await redis.command("XADD", stream, "*", "e", b"\n".join(line for each in events for line in each))


async def in_the_log(settings: Settings, database: Database, *events: list[bytes]) -> None:
    async with database.transaction(task_scope("audit")) as session:
        await Heads(settings.secret_key).append(session, [read_event(lines) for lines in events])


async def test_each_call_counts_once_wherever_it_is(
    settings: Settings, redis: Redis, database: Database, acme: Tenant, seeder: QuotaSeeder
) -> None:
    written, both, waiting, public = (event(redis, acme.id, actor) for actor in (KEY, KEY, KEY, ""))
    before = event(redis, acme.id, days_ago=40)
    others = event(redis, "0" * 31 + "1")
    await in_the_log(settings, database, written, both, before)
    await on_its_way(redis, acme.id, both, waiting, public)
    await on_its_way(redis, acme.id, waiting, before, others)
    await on_its_way(redis, acme.id, [b"no", b"event", *([b""] * 7)])
    month = month_of(redis.clock.now())
    assert await seeder.seed(acme.id, month)
    use = redis.keys.quota(acme.id, month)
    assert await QuotaUse(redis).read(acme.id, month) == Used(4, 6_000)
    assert await redis.command("HGET", use, f"calls:{KEY}") == b"3"
    assert await seeder.used(acme.id, month) == Used(4, 6_000)


async def test_where_redis_does_not_know_people_are_told_what_the_log_has(
    settings: Settings, redis: Redis, database: Database, acme: Tenant, seeder: QuotaSeeder
) -> None:
    month = month_of(redis.clock.now())
    assert await seeder.used(acme.id, month) == Used(0, 0)
    await in_the_log(settings, database, event(redis, acme.id))
    assert await seeder.used(acme.id, month) == Used(1, 1_500)
    assert await QuotaUse(redis).read(acme.id, month) is None


async def test_what_is_known_is_told_anew_when_a_quota_changes(
    redis: Redis, tenants: Tenants, acme: Tenant, seeder: QuotaSeeder
) -> None:
    month = month_of(redis.clock.now())
    use = QuotaUse(redis)
    for changes, known in (({"rate": "5"}, Used()), ({"monthly_calls": "5"}, None)):
        assert await seeder.seed(acme.id, month)
        await tenants.set("acme", changes)
        assert await use.read(acme.id, month) == known


async def test_however_many_ask_at_once_it_is_told_once(
    settings: Settings, redis: Redis, database: Database, acme: Tenant
) -> None:
    await in_the_log(settings, database, event(redis, acme.id))
    month = month_of(redis.clock.now())
    pods = [QuotaSeeder(redis, database, settings.secret_key) for _ in range(3)]
    assert all(await asyncio.gather(*(pod.seed(acme.id, month) for pod in pods * 4)))
    assert await QuotaUse(redis).read(acme.id, month) == Used(1, 1_500)


async def test_with_postgres_away_or_too_much_on_its_way_nothing_is_told_and_not_asked_again_at_once(
    settings: Settings, redis: Redis, acme: Tenant, monkeypatch: pytest.MonkeyPatch, seeder: QuotaSeeder
) -> None:
    month = month_of(redis.clock.now())
    away = QuotaSeeder(redis, Database(NOWHERE), settings.secret_key)
    assert not await away.seed(acme.id, month)
    monkeypatch.setattr(away, "_tell", None)
    assert not await away.seed(acme.id, month), "it was tried a moment ago"
    monkeypatch.setattr("trunkline.streams.quotas.MOST_EVENTS", 1)
    for _ in range(2):
        await on_its_way(redis, acme.id, event(redis, acme.id))
    assert not await seeder.seed(acme.id, month)
    assert await QuotaUse(redis).read(acme.id, month) is None


async def test_events_are_counted_and_not_the_entries_that_hold_them(
    redis: Redis, acme: Tenant, monkeypatch: pytest.MonkeyPatch, seeder: QuotaSeeder
) -> None:
    monkeypatch.setattr("trunkline.streams.quotas.MOST_EVENTS", 2)
    await on_its_way(redis, acme.id, *(event(redis, acme.id) for _ in range(3)))
    await redis.command("SET", redis.keys.unwritten(redis.keys.lane_of(acme.id)), 3)
    assert not await seeder.seed(acme.id, month_of(redis.clock.now()))


async def test_what_takes_too_long_is_waited_for_once_and_whatever_fails_is_not_known(
    redis: Redis, acme: Tenant, monkeypatch: pytest.MonkeyPatch, settings: Settings, database: Database
) -> None:
    month = month_of(redis.clock.now())
    monkeypatch.setattr("trunkline.tenants.quotas.PATIENCE", 0.01)
    slow, failing = (QuotaSeeder(redis, database, settings.secret_key) for _ in range(2))
    asked: list[str] = []

    async def tell(tenant: str, _: str, **__: object) -> bool:
        asked.append(tenant)
        await asyncio.Event().wait()
        return True

    async def fail(*_: object, **__: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(slow, "_tell", tell)
    assert not await slow.seed(acme.id, month)
    monkeypatch.setattr("trunkline.tenants.quotas.PATIENCE", 600.0)
    async with asyncio.timeout(10):
        assert not await slow.seed(acme.id, month)
    assert asked == [acme.id]
    monkeypatch.setattr(failing, "_tell", fail)
    assert not await failing.seed(acme.id, month)
    for running in slow._running.values():
        running.cancel()


@pytest.mark.parametrize(
    ("now", "month", "ends"),
    [
        ("2026-11-30T23:59:59", "2026-11", "2026-12-01"),
        ("2026-12-31T23:59:59", "2026-12", "2027-01-01"),
        ("2028-02-29T00:00:00", "2028-02", "2028-03-01"),
    ],
)
def test_months_are_those_of_utc(now: str, month: str, ends: str) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    assert month_of(at) == month
    assert month_ends(at) == datetime.fromisoformat(ends).replace(tzinfo=UTC)
