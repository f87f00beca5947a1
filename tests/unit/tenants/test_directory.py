from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice

import orjson
import pytest

from trunkline.db import Scope, task_scope
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.tenants import directory as module
from trunkline.tenants.directory import MISSING, TenantDirectory
from trunkline.tenants.model import Limits

SETTINGS = Settings(environment="dev", tenant_rate=10, tenant_burst=20, tenant_in_flight=30, tenant_sessions=40)


def stored(slug: str = "acme", version: int = 1, status: str = "active") -> bytes:
    return orjson.dumps(
        {
            "id": "0" * 32,
            "slug": slug,
            "name": slug,
            "access": "key",
            "status": status,
            "limits": [None, 5, None, None],
            "toolsets": [["demo", True]],
            "version": version,
        }
    )


class Stores:
    """A Redis and a Postgres that count what they are asked and can be away, and a clock."""

    def __init__(self) -> None:
        self.redis: dict[str, bytes] = {}
        self.postgres: dict[str, bytes] = {}
        self.redis_away = self.postgres_away = False
        self.redis_asked = self.postgres_asked = 0
        self.versions: dict[str, int] = {}
        self.now = 1_000.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.postgres_gate = asyncio.Event()
        self.postgres_gate.set()

    async def get(self, kind: str, name: str) -> bytes | None:
        assert kind == "tenant"
        self.redis_asked += 1
        await self.gate.wait()
        if self.redis_away:
            raise Unavailable("Redis is away")
        return self.redis.get(name)

    async def put(self, kind: str, name: str, version: int, value: bytes) -> None:
        assert kind == "tenant"
        if self.redis_away:
            raise Unavailable("Redis is away")
        if version >= self.versions.get(name, 0):
            self.redis[name], self.versions[name] = value, version

    async def look(
        self, read: Callable[[Stores], Awaitable[bytes | None]], seconds: float, *, scope: Scope
    ) -> bytes | None:
        assert scope == task_scope("directory")
        self.postgres_asked += 1
        await self.postgres_gate.wait()
        if self.postgres_away:
            raise Unavailable("Postgres is away")
        return await read(self)

    def away(self) -> None:
        self.redis_away = self.postgres_away = True


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    async def load_snapshot(session: Stores, slug: str) -> bytes | None:
        return session.postgres.get(slug)

    monkeypatch.setattr(module, "load_snapshot", load_snapshot)
    return Stores()


@pytest.fixture
async def directory(stores: Stores) -> AsyncIterator[TenantDirectory]:
    made = TenantDirectory(stores, stores, SETTINGS, clock=lambda: stores.now)  # type: ignore[arg-type]
    yield made
    await made.aclose()


async def looks_done(directory: TenantDirectory) -> None:
    await asyncio.wait_for(asyncio.gather(*directory._looks.values(), return_exceptions=True), 5)


async def test_a_tenant_comes_from_redis_with_the_defaults_of_this_deployment(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    tenant = await directory.get("acme")
    assert tenant is not None
    assert tenant.limits == Limits(10, 5, 30, 40)
    assert tenant.enabled_toolsets == ("demo",)
    assert stores.postgres_asked == 0


async def test_a_tenant_that_redis_lacks_comes_from_postgres_and_is_left_in_redis(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.postgres["acme"] = stored(version=7)
    assert await directory.get("acme") is not None
    assert stores.redis["acme"] == stores.postgres["acme"]
    assert stores.versions["acme"] == 7


async def test_a_known_tenant_costs_no_look_while_it_is_fresh(stores: Stores, directory: TenantDirectory) -> None:
    stores.redis["acme"] = stored()
    assert directory.peek("acme") is MISSING
    tenant = await directory.get("acme")
    stores.now += module.FRESH - 1
    assert directory.peek("acme") is tenant
    assert await directory.get("acme") is tenant
    assert stores.redis_asked == 1


async def test_one_that_is_no_longer_fresh_is_served_while_a_look_goes_on_beside(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    before = await directory.get("acme")
    stores.redis["acme"] = stored(version=2)
    stores.now += module.FRESH + 1
    assert directory.peek("acme") is MISSING
    assert await directory.get("acme") is before
    await looks_done(directory)
    after = directory.peek("acme")
    assert after.version == 2  # type: ignore[union-attr]


async def test_one_that_was_idle_for_long_is_looked_up_before_it_is_served(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    await directory.get("acme")
    stores.redis["acme"] = stored(version=2, status="suspended")
    stores.now += module.PATIENT + 1
    tenant = await directory.get("acme")
    assert tenant is not None
    assert tenant.status == "suspended"


async def test_a_known_tenant_is_served_for_a_quarter_of_an_hour_with_both_stores_away(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    tenant = await directory.get("acme")
    stores.away()
    stores.now += module.STALE - 1
    assert await directory.get("acme") is tenant
    stores.now += 2
    with pytest.raises(Unavailable):
        await directory.get("acme")


async def test_nobody_waits_twice_for_stores_that_are_away(stores: Stores, directory: TenantDirectory) -> None:
    stores.redis["acme"] = stored()
    tenant = await directory.get("acme")
    stores.away()
    stores.now += module.PATIENT + 1
    await directory.get("acme")
    asked = stores.redis_asked
    stores.gate.clear()
    assert await directory.get("acme") is tenant
    assert stores.redis_asked == asked
    stores.now += module.RETRY + 1
    assert await directory.get("acme") is tenant
    stores.gate.set()
    await looks_done(directory)
    assert stores.redis_asked == asked + 1


async def test_an_unknown_name_is_nobodys_for_a_moment_only(stores: Stores, directory: TenantDirectory) -> None:
    assert await directory.get("acme") is None
    assert directory.peek("acme") is None
    assert await directory.get("acme") is None
    assert stores.postgres_asked == 1
    stores.postgres["acme"] = stored()
    stores.now += module.UNKNOWN + 1
    assert directory.peek("acme") is MISSING
    assert await directory.get("acme") is not None


async def test_a_name_that_no_tenant_can_have_is_not_looked_up(stores: Stores, directory: TenantDirectory) -> None:
    for slug in ("", "A", "a" * 64, "../x", "a b"):
        assert await directory.get(slug) is None
    assert (stores.redis_asked, stores.postgres_asked) == (0, 0)


async def test_a_flood_of_unknown_names_fills_no_memory(
    stores: Stores, directory: TenantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_UNKNOWN", 10)
    stores.redis["acme"] = stored()
    tenant = await directory.get("acme")
    for number in range(50):
        await directory.get(f"nobody{number}")
    assert len(directory._unknown) == 10
    assert directory.peek("acme") is tenant


async def test_a_flood_of_unknown_names_meets_a_bound_before_postgres(
    stores: Stores, directory: TenantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 8)
    stores.redis["acme"] = stored()
    stores.postgres_gate.clear()
    asked = [asyncio.create_task(directory.get(f"nobody{number}")) for number in range(50)]
    for refused in islice(asyncio.as_completed(asked, timeout=5), 42):
        with pytest.raises(Unavailable, match="Too many unknown tenants"):
            await refused
    assert stores.postgres_asked == 4
    assert await directory.get("acme") is not None
    stores.postgres_gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert answers.count(None) == 8


async def test_memory_keeps_the_tenants_that_were_looked_up_last(
    stores: Stores, directory: TenantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_TENANTS", 2)
    for slug in ("one", "two", "three"):
        stores.redis[slug] = stored(slug)
        await directory.get(slug)
    assert directory.peek("one") is MISSING
    assert directory.peek("three") is not MISSING


async def test_many_who_ask_at_once_cause_one_look(stores: Stores, directory: TenantDirectory) -> None:
    stores.redis["acme"] = stored()
    tenants = await asyncio.gather(*(directory.get("acme") for _ in range(50)))
    assert stores.redis_asked == 1
    assert all(tenant is tenants[0] for tenant in tenants)


async def test_the_one_who_asked_first_may_go_away(stores: Stores, directory: TenantDirectory) -> None:
    stores.redis["acme"] = stored()
    stores.gate.clear()
    first = asyncio.create_task(directory.get("acme"))
    second = asyncio.create_task(directory.get("acme"))
    await asyncio.wait({first}, timeout=0)
    first.cancel()
    stores.gate.set()
    assert await asyncio.wait_for(second, 5) is not None
    assert stores.redis_asked == 1


async def test_a_changed_tenant_is_looked_up_before_it_is_served_again(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    await directory.get("acme")
    stores.redis["acme"] = stored(version=2)
    directory.forget("acme")
    assert directory.peek("acme") is MISSING
    tenant = await directory.get("acme")
    assert tenant is not None
    assert tenant.version == 2


async def test_a_changed_tenant_is_served_as_it_was_where_no_store_answers(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    tenant = await directory.get("acme")
    stores.away()
    directory.forget_all()
    assert await directory.get("acme") is tenant


async def test_a_look_that_began_before_a_change_does_not_bring_back_the_old_state(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    stores.gate.clear()
    early = asyncio.create_task(directory.get("acme"))
    await asyncio.wait({early}, timeout=0)
    directory.forget("acme")
    stores.gate.set()
    await early
    assert directory.peek("acme") is MISSING


async def test_a_name_that_was_nobodys_is_found_as_soon_as_it_is_announced(
    stores: Stores, directory: TenantDirectory
) -> None:
    assert await directory.get("acme") is None
    stores.redis["acme"] = stored()
    directory.forget("acme")
    assert await directory.get("acme") is not None


async def test_a_deleted_tenant_is_nobody_though_postgres_is_away(stores: Stores, directory: TenantDirectory) -> None:
    stores.redis["acme"] = b"null"
    stores.postgres_away = True
    assert await directory.get("acme") is None


async def test_a_name_that_redis_lacks_is_not_called_unknown_while_postgres_is_away(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.postgres_away = True
    with pytest.raises(Unavailable):
        await directory.get("acme")
    assert directory.peek("acme") is MISSING


async def test_a_tenant_comes_from_postgres_while_redis_is_away(stores: Stores, directory: TenantDirectory) -> None:
    stores.postgres["acme"] = stored()
    stores.redis_away = True
    assert await directory.get("acme") is not None


async def test_a_change_that_redis_missed_is_seen_within_minutes(stores: Stores, directory: TenantDirectory) -> None:
    stores.redis["acme"] = stored()
    stores.postgres["acme"] = stored(version=2)
    await directory.get("acme")
    stores.now += module.CONFIRM
    tenant = await directory.get("acme")
    assert tenant is not None
    assert tenant.version == 2
    assert stores.redis["acme"] == stores.postgres["acme"]


async def test_a_deletion_that_redis_missed_is_seen_within_minutes(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    await directory.get("acme")
    stores.now += module.CONFIRM
    assert await directory.get("acme") is None
    assert stores.redis["acme"] == b"null"


async def test_confirming_falls_back_on_redis_while_postgres_is_away(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored(version=3)
    await directory.get("acme")
    stores.postgres_away = True
    stores.now += module.CONFIRM
    tenant = await directory.get("acme")
    assert tenant is not None
    assert stores.redis_asked == 2


async def test_a_pod_without_a_database_asks_redis_alone(stores: Stores) -> None:
    directory = TenantDirectory(None, stores, SETTINGS, clock=lambda: stores.now)
    stores.redis["acme"] = stored()
    assert await directory.get("acme") is not None
    with pytest.raises(Unavailable):
        await directory.get("other")
    stores.redis_away = True
    with pytest.raises(Unavailable):
        await directory.get("another")


async def test_after_an_announcement_redis_is_asked_first_however_long_ago_postgres_was(
    stores: Stores, directory: TenantDirectory
) -> None:
    stores.redis["acme"] = stored()
    await directory.get("acme")
    stores.now += 2 * module.CONFIRM
    stores.postgres_gate.clear()
    stores.redis["acme"] = stored(version=2, status="suspended")
    directory.forget("acme")
    found = await directory.get("acme")
    assert (found and found.status, stores.postgres_asked) == ("suspended", 0)


@pytest.mark.parametrize(("in_redis", "status"), [(3, "suspended"), (1, "active")])
async def test_what_redis_has_counts_where_it_is_newer_than_what_postgres_has(
    stores: Stores, directory: TenantDirectory, in_redis: int, status: str
) -> None:
    copy = stored(version=in_redis, status="suspended" if in_redis == 3 else "active")
    await stores.put("tenant", "acme", in_redis, copy)
    stores.postgres["acme"] = stored(version=2)
    await directory.get("acme")
    stores.now += 2 * module.CONFIRM
    found = await directory.get("acme")
    assert (found and found.status, stores.postgres_asked) == (status, 1)
