from __future__ import annotations

import asyncio

import orjson
import pytest

from trunkline.audit.by import CLI
from trunkline.db import Database
from trunkline.errors import Conflict, NotFound, TenantNotFound, Unavailable, UsageError
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.revocations import Revocations
from trunkline.streams.sessions import Owner, Sessions, new_session_id
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants.announce import Announcer
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.key_options import Wanted
from trunkline.tenants.keys import Keys
from trunkline.tenants.model import Limits, Tenant, ToolsetSwitch
from trunkline.tenants.snapshot import default_limits
from trunkline.tenants.tenants import Tenants

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


async def seen_by_a_new_pod(settings: Settings, redis: Redis, slug: str) -> Tenant | None:
    """What a pod makes of the name that starts while Postgres is away."""
    away = Database(NOWHERE)
    directory = TenantDirectory(away, Snapshots(redis), settings)
    try:
        return await directory.get(slug)
    finally:
        await directory.aclose()
        await away.aclose()


async def test_a_new_tenant_has_the_defaults_and_is_known_without_postgres(
    settings: Settings, tenants: Tenants, redis: Redis
) -> None:
    tenant = await tenants.create("acme", "Acme Ltd")
    assert (tenant.slug, tenant.name, tenant.access, tenant.status) == ("acme", "Acme Ltd", "key", "active")
    assert tenant.limits == default_limits(settings)
    assert tenant.toolsets == ()
    assert len(bytes.fromhex(tenant.id)) == 16
    assert await tenants.get("acme") == tenant
    assert await seen_by_a_new_pod(settings, redis, "acme") == tenant


async def test_a_slug_belongs_to_one_tenant(tenants: Tenants) -> None:
    await tenants.create("acme")
    with pytest.raises(Conflict, match="There is a tenant 'acme' already"):
        await tenants.create("acme")
    with pytest.raises(UsageError, match="reserved"):
        await tenants.create("admin")


async def test_tenants_are_listed_by_name_with_their_toolsets(tenants: Tenants) -> None:
    for slug in ("zeta", "acme", "mid"):
        await tenants.create(slug)
    await tenants.enable("mid", "demo")
    listed = await tenants.list()
    assert [tenant.slug for tenant in listed] == ["acme", "mid", "zeta"]
    assert [tenant.enabled_toolsets for tenant in listed] == [(), ("demo",), ()]


async def test_what_is_set_is_seen_and_a_limit_goes_back_to_the_default(
    settings: Settings, tenants: Tenants, redis: Redis
) -> None:
    created = await tenants.create("acme")
    changed = await tenants.set("acme", {"access": "public", "rate": "2.5", "burst": "7", "sessions": "9"})
    assert changed.access == "public"
    assert changed.limits == Limits(2.5, 7, settings.tenant_in_flight, 9)
    assert changed.version > created.version
    again = await tenants.set("acme", {"rate": "default"})
    assert again.limits.rate == settings.tenant_rate
    assert again.version > changed.version
    assert await seen_by_a_new_pod(settings, redis, "acme") == again


async def test_a_bad_setting_changes_nothing(tenants: Tenants) -> None:
    created = await tenants.create("acme")
    with pytest.raises(UsageError, match="what can be set"):
        await tenants.set("acme", {"name": "New", "colour": "red"})
    assert await tenants.get("acme") == created


async def test_a_suspended_tenant_is_seen_as_such_until_it_is_resumed(
    settings: Settings, tenants: Tenants, redis: Redis
) -> None:
    await tenants.create("acme")
    assert (await tenants.suspend("acme")).status == "suspended"
    seen = await seen_by_a_new_pod(settings, redis, "acme")
    assert seen is not None
    assert seen.status == "suspended"
    assert (await tenants.resume("acme")).status == "active"


async def test_a_toolset_keeps_its_place_when_it_is_switched_off_and_on(tenants: Tenants) -> None:
    await tenants.create("acme")
    await tenants.enable("acme", "first")
    await tenants.enable("acme", "second")
    await tenants.disable("acme", "first")
    assert (await tenants.get("acme")).enabled_toolsets == ("second",)
    tenant = await tenants.enable("acme", "first")
    assert tenant.toolsets == (ToolsetSwitch("first", True), ToolsetSwitch("second", True))


async def test_a_toolset_that_never_was_on_cannot_be_switched_off(tenants: Tenants) -> None:
    await tenants.create("acme")
    with pytest.raises(NotFound, match="no toolset 'demo'"):
        await tenants.disable("acme", "demo")


async def test_changes_at_the_same_time_are_all_kept(tenants: Tenants) -> None:
    await tenants.create("acme")
    names = [f"set{number}" for number in range(6)]
    changed = await asyncio.gather(*(tenants.enable("acme", name) for name in names))
    assert len({tenant.version for tenant in changed}) == 6
    assert sorted((await tenants.get("acme")).enabled_toolsets) == names


@pytest.mark.parametrize("step", ["get", "suspend", "resume", "delete"])
async def test_what_is_done_to_no_tenant_says_so(tenants: Tenants, step: str) -> None:
    with pytest.raises(TenantNotFound, match=r"There is no tenant 'nobody'\."):
        await getattr(tenants, step)("nobody")


async def test_a_deleted_tenant_is_nobody_and_its_keys_are_revoked(
    settings: Settings, tenants: Tenants, keys: Keys, redis: Redis
) -> None:
    await tenants.create("acme")
    await tenants.enable("acme", "demo")
    _, issued = await keys.issue("acme")
    await tenants.delete("acme")
    assert await seen_by_a_new_pod(settings, redis, "acme") is None
    assert set(await Revocations(redis).all()) == {issued.id}
    with pytest.raises(TenantNotFound):
        await tenants.get("acme")


async def test_a_tenant_with_the_name_of_a_deleted_one_is_another_and_is_seen(
    settings: Settings, tenants: Tenants, redis: Redis
) -> None:
    first = await tenants.create("acme")
    for _ in range(3):
        await tenants.suspend("acme")
    await tenants.delete("acme")
    second = await tenants.create("acme")
    assert second.id != first.id
    assert await seen_by_a_new_pod(settings, redis, "acme") == second


async def test_a_change_while_redis_is_away_is_stored_and_says_who_does_not_know_yet(
    settings: Settings, tenants: Tenants, database: Database, lost_redis: Redis
) -> None:
    await tenants.create("acme")
    with pytest.raises(Unavailable, match="is stored, but Redis is away: running pods learn of it"):
        await Tenants(settings, database, lost_redis).suspend("acme")
    assert (await tenants.get("acme")).status == "suspended"


async def test_deleting_again_tells_a_redis_that_missed_it(
    settings: Settings, tenants: Tenants, database: Database, redis: Redis, lost_redis: Redis
) -> None:
    await tenants.create("acme")
    with pytest.raises(Unavailable, match="The deletion of tenant acme is stored"):
        await Tenants(settings, database, lost_redis).delete("acme")
    assert await seen_by_a_new_pod(settings, redis, "acme") is not None
    with pytest.raises(TenantNotFound):
        await tenants.delete("acme")
    assert await seen_by_a_new_pod(settings, redis, "acme") is None


async def test_with_postgres_away_a_change_is_refused_in_one_sentence(settings: Settings, redis: Redis) -> None:
    away = Tenants(settings, Database(NOWHERE), redis)
    with pytest.raises(Unavailable, match="Postgres cannot be reached"):
        await away.create("acme")
    with pytest.raises(Unavailable, match="Postgres cannot be reached"):
        await away.list()


async def test_a_running_pod_finds_a_tenant_in_postgres_and_leaves_it_in_redis(
    settings: Settings, tenants: Tenants, database: Database, redis: Redis
) -> None:
    tenant = await tenants.create("acme")
    await redis.command("DEL", redis.keys.snapshot("tenant", "acme"))
    directory = TenantDirectory(database, Snapshots(redis), settings)
    assert await directory.get("acme") == tenant
    assert await seen_by_a_new_pod(settings, redis, "acme") == tenant
    await directory.aclose()


async def test_sessions_of_a_tenant_hear_that_its_toolsets_changed(
    tenants: Tenants, redis: Redis, settings: Settings
) -> None:
    acme, other = await tenants.create("acme"), await tenants.create("other")
    sessions, context = Sessions(redis, "pod"), orjson.dumps({"lists": ["tools"]})
    opened = {}
    for tenant in (acme, other):
        opened[tenant.id] = session = new_session_id()
        await sessions.open(Owner(tenant.id, "key"), session, b"{}", 10)
        await redis.command("HSET", redis.keys.stream(tenant.id, session)[0], "context", context)

    await tenants.enable("acme", "demo")
    await tenants.enable("acme", "demo")  # which it is
    await tenants.set("acme", {"rate": "5"})
    await tenants.disable("acme", "demo")

    heard = [orjson.loads(each.body)["method"] for each in await sessions.missed(acme.id, opened[acme.id], 0)]
    assert heard == ["notifications/tools/list_changed"] * 2
    assert await sessions.missed(other.id, opened[other.id], 0) == []


async def test_who_was_let_in_by_one_tenant_changes_no_other_that_has_its_name_by_now(
    tenants: Tenants, keys: Keys, redis: Redis
) -> None:
    before = await tenants.create("acme")
    await tenants.delete("acme")
    await tenants.create("acme")
    known = await Announcer(redis).tenant_copy("acme")
    wanted = Wanted.of()
    for change in (
        tenants.set("acme", {"name": "Mine"}, tenant_id=before.id),
        tenants.enable("acme", "demo", tenant_id=before.id),
        tenants.disable("acme", "demo", tenant_id=before.id),
        tenants.delete("acme", tenant_id=before.id),
        tenants.get("acme", tenant_id=before.id),
        keys.issue_wanted("acme", wanted, CLI, before.id),
    ):
        with pytest.raises(TenantNotFound):
            await change
    assert (await tenants.get("acme")).name == "acme"
    assert await Announcer(redis).tenant_copy("acme") == known


async def test_what_cannot_be_a_name_is_nobodys(tenants: Tenants) -> None:
    for slug in ("a\0b", "", "A", "x" * 64):
        with pytest.raises(TenantNotFound):
            await tenants.get(slug)
