from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import jwt
import pytest
from sqlalchemy import select
from tests.stores import as_owner

from trunkline.audit.models import AuditEvent
from trunkline.db import Database, task_scope, utcnow
from trunkline.errors import (
    Conflict,
    NotFound,
    StartRefused,
    TenantNotFound,
    Unauthorized,
    Unavailable,
    UsageError,
)
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.revocations import Revocations
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants.keys import Keys
from trunkline.tenants.model import Tenant
from trunkline.tenants.signing import Keyring
from trunkline.tenants.tenants import Tenants
from trunkline.tenants.verify import Verifier

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
async def acme(tenants: Tenants) -> Tenant:
    return await tenants.create("acme")


async def events(database: Database) -> list[AuditEvent]:
    async with database.transaction(task_scope("audit")) as session:
        of_keys = select(AuditEvent).where(AuditEvent.action.startswith("key."))
        return list(await session.scalars(of_keys.order_by(AuditEvent.id)))


async def test_a_new_key_is_known_to_a_pod_that_never_heard_of_its_signing_key(
    acme: Tenant, keys: Keys, verifier: Verifier
) -> None:
    token, record = await keys.issue("acme", name="ci", scopes=["mcp:read"], tools=["add"])
    principal = await verifier.authenticate(token, "acme")
    assert (principal.tenant_id, principal.slug, principal.key_id) == (acme.id, "acme", record.id)
    assert principal.scopes == {"mcp:read"}
    assert principal.tools == ("add",)
    assert principal.expires_at == record.expires_at.timestamp()
    assert record.expires_at - record.created_at == timedelta(days=90)
    assert record.name == "ci"


async def test_a_pod_that_starts_with_postgres_away_knows_keys_and_revocations_from_redis(
    settings: Settings, acme: Tenant, keys: Keys, redis: Redis
) -> None:
    good, _ = await keys.issue("acme")
    bad, revoked = await keys.issue("acme")
    await keys.revoke(revoked.id)
    away = Database(NOWHERE)
    pod = Verifier(settings, Keyring(Snapshots(redis), away), Revocations(redis), away)
    await pod.refresh()
    assert pod.verify(good, "acme").tenant_id == acme.id
    with pytest.raises(Unauthorized, match="was revoked"):
        pod.verify(bad, "acme")


async def test_a_pod_that_starts_with_redis_away_knows_keys_and_revocations_from_postgres(
    settings: Settings, acme: Tenant, keys: Keys, database: Database, lost_redis: Redis
) -> None:
    good, _ = await keys.issue("acme")
    bad, revoked = await keys.issue("acme")
    await keys.revoke(revoked.id)
    pod = Verifier(settings, Keyring(Snapshots(lost_redis), database), Revocations(lost_redis), database)
    await pod.refresh()
    assert pod.verify(good, "acme")
    with pytest.raises(Unauthorized, match="was revoked"):
        pod.verify(bad, "acme")


async def test_with_both_stores_away_a_pod_that_knows_nothing_does_not_call_a_key_bad(
    settings: Settings, acme: Tenant, keys: Keys, lost_redis: Redis
) -> None:
    token, _ = await keys.issue("acme")
    away = Database(NOWHERE)
    pod = Verifier(settings, Keyring(Snapshots(lost_redis), away), Revocations(lost_redis), away)
    with pytest.raises(Unavailable):
        await pod.refresh()
    with pytest.raises(Unavailable, match="cannot be checked at the moment"):
        await pod.authenticate(token, "acme")


@pytest.mark.usefixtures("acme")
async def test_keys_are_listed_and_never_the_secret(keys: Keys, settings: Settings, redis: Redis) -> None:
    issued = [await keys.issue("acme", name=f"key {number}") for number in range(3)]
    assert [record.id for record in await keys.list("acme")] == [record.id for _, record in issued]
    rows = "SELECT t::text FROM api_keys t UNION ALL SELECT t::text FROM audit_events t"
    stored = "".join(row[0] for row in await as_owner(settings.database_url, rows))
    for token, record in issued:
        assert record.id in stored
        assert token not in stored
        assert token.rsplit(".", 1)[1] not in stored
        assert token not in repr(record)


@pytest.mark.usefixtures("acme")
async def test_a_revoked_key_is_refused_by_pods_that_hear_of_it_and_by_those_that_read(
    keys: Keys, verifier: Verifier, redis: Redis
) -> None:
    token, record = await keys.issue("acme")
    await verifier.authenticate(token, "acme")
    revoked = await keys.revoke(record.id)
    assert revoked.revoked_at is not None
    await verifier.refresh()
    with pytest.raises(Unauthorized, match="was revoked"):
        verifier.verify(token, "acme")


@pytest.mark.usefixtures("acme")
async def test_revoking_twice_is_one_event_and_never_later(keys: Keys, database: Database) -> None:
    _, record = await keys.issue("acme")
    first = await keys.revoke(record.id)
    second = await keys.revoke(record.id)
    assert first.revoked_at == second.revoked_at
    assert [event.action for event in await events(database)] == ["key.issue", "key.revoke"]


@pytest.mark.usefixtures("acme")
async def test_a_key_revoked_for_later_can_be_revoked_at_once(keys: Keys) -> None:
    _, record = await keys.issue("acme")
    await keys.revoke(record.id, at=utcnow() + timedelta(hours=1))
    now = await keys.revoke(record.id)
    assert now.revoked_at is not None
    assert now.revoked_at <= utcnow()


@pytest.mark.usefixtures("acme")
async def test_a_rotated_key_works_beside_the_new_one_until_the_overlap_ends(
    keys: Keys, verifier: Verifier, database: Database
) -> None:
    old_token, old = await keys.issue("acme", name="ci", tools=["add"], expires=timedelta(days=5))
    new_token, new = await keys.rotate(old.id, overlap=timedelta(minutes=5))
    await verifier.refresh()
    assert verifier.verify(old_token, "acme").key_id == old.id
    principal = verifier.verify(new_token, "acme")
    assert (principal.key_id, principal.tools) == (new.id, ("add",))
    assert (new.name, new.expires_at - new.created_at) == ("ci", timedelta(days=5))
    replaced = (await keys.list("acme"))[0]
    assert replaced.replaced_by == new.id
    assert replaced.revoked_at is not None
    assert 290 < replaced.revoked_at.timestamp() - time.time() <= 300
    issued, rotated = await events(database)
    assert [(each.action, each.target) for each in (issued, rotated)] == [
        ("key.issue", old.id),
        ("key.rotate", old.id),
    ]
    assert rotated.detail["new"] == {
        "scopes": ["mcp:call", "mcp:read"], "tools": ["add"], "expires_at": new.expires_at.isoformat(),
    }  # fmt: skip


@pytest.mark.usefixtures("acme")
async def test_a_key_rotated_without_overlap_stops_at_once(keys: Keys, verifier: Verifier) -> None:
    token, record = await keys.issue("acme")
    await keys.rotate(record.id, overlap=timedelta(0))
    await verifier.refresh()
    with pytest.raises(Unauthorized, match="was revoked"):
        verifier.verify(token, "acme")


@pytest.mark.usefixtures("acme")
async def test_a_key_is_rotated_once(keys: Keys) -> None:
    _, record = await keys.issue("acme")
    await keys.rotate(record.id)
    with pytest.raises(Conflict, match="issue a new one"):
        await keys.rotate(record.id)
    with pytest.raises(UsageError, match="cannot be negative"):
        await keys.rotate(record.id, overlap=timedelta(seconds=-1))


@pytest.mark.usefixtures("acme")
async def test_what_cannot_be_is_refused_before_anything_is_stored(keys: Keys, database: Database) -> None:
    for wrong in ({"scopes": ["root"]}, {"tools": ["a b"]}, {"expires": timedelta(0)}, {"name": "\x00"}):
        with pytest.raises(UsageError):
            await keys.issue("acme", **wrong)  # type: ignore[arg-type]
    with pytest.raises(TenantNotFound):
        await keys.issue("nobody")
    with pytest.raises(NotFound, match="There is no key 'key_x'"):
        await keys.revoke("key_x")
    with pytest.raises(NotFound, match="There is no key 'key_x'"):
        await keys.rotate("key_x")
    assert await events(database) == []
    assert await keys.list("acme") == ()


@pytest.mark.usefixtures("acme")
async def test_an_event_of_a_key_says_who_and_what_and_nothing_secret(keys: Keys, database: Database) -> None:
    token, record = await keys.issue("acme", name="ci")
    (event,) = await events(database)
    assert (event.tenant_id, event.action, event.target) == (record.tenant_id, "key.issue", record.id)
    assert (event.actor, event.outcome) == ("cli", "ok")
    assert event.detail["name"] == "ci"
    assert token.split(".")[1] not in str(event.detail)


@pytest.mark.usefixtures("acme")
async def test_a_revocation_while_redis_is_away_is_stored_and_says_when_pods_learn_it(
    settings: Settings, keys: Keys, database: Database, lost_redis: Redis
) -> None:
    token, record = await keys.issue("acme")
    with pytest.raises(Unavailable, match="The revocation is stored, but Redis is away") as told:
        await Keys(settings, database, lost_redis).revoke(record.id)
    assert token not in told.value.message
    assert (await keys.list("acme"))[0].revoked_at is not None


@pytest.mark.usefixtures("acme")
async def test_a_key_is_issued_though_redis_is_away_and_rotation_then_does_not_begin(
    settings: Settings, database: Database, lost_redis: Redis
) -> None:
    keys = Keys(settings, database, lost_redis)
    token, record = await keys.issue("acme")
    assert token.startswith("tlk_")
    with pytest.raises(Unavailable):
        await keys.rotate(record.id)
    assert len(await keys.list("acme")) == 1


async def test_processes_that_find_no_signing_key_make_one_together(keys: Keys, settings: Settings) -> None:
    await asyncio.gather(*(keys.ensure_signing_key() for _ in range(8)))
    assert len(await as_owner(settings.database_url, "SELECT kid FROM signing_keys")) == 1


async def test_the_private_signing_key_is_stored_sealed_and_opens_under_its_own_root_only(
    settings: Settings, acme: Tenant, keys: Keys, database: Database, redis: Redis
) -> None:
    await keys.issue("acme")
    other_root = settings.model_copy(update={"secret_key": type(settings.secret_key)("x" * 40)})
    with pytest.raises(StartRefused, match="TRUNKLINE_SECRET_KEY is not the one"):
        await Keys(other_root, database, redis).issue("acme")


@pytest.mark.usefixtures("acme")
async def test_the_published_key_set_verifies_a_key(
    settings: Settings, keys: Keys, redis: Redis, database: Database
) -> None:
    token, record = await keys.issue("acme")
    keyring = Keyring(Snapshots(redis), database)
    assert await keyring.refresh() == frozenset(), "a new key is none that changed"
    assert await keyring.refresh() == frozenset()
    published = jwt.PyJWKSet.from_dict(keyring.jwks())
    body = token.removeprefix("tlk_")
    key = published[jwt.get_unverified_header(body)["kid"]]
    claims = jwt.decode(body, key.key, algorithms=["EdDSA"], audience=settings.tenant_url("acme"))
    assert claims["jti"] == record.id
    assert "d" not in keyring.jwks()["keys"][0]


async def test_two_tenants_keys_are_strangers_to_each_other(
    acme: Tenant, tenants: Tenants, keys: Keys, verifier: Verifier
) -> None:
    await tenants.create("other")
    token, _ = await keys.issue("other")
    with pytest.raises(Unauthorized, match="another tenant"):
        await verifier.authenticate(token, "acme")
    assert {record.tenant_id for record in await keys.list("other")} != {acme.id}


async def test_a_database_without_schema_says_what_to_do(settings: Settings, keys: Keys) -> None:
    await as_owner(settings.database_url, "ALTER TABLE signing_keys RENAME TO signing_keys_elsewhere")
    with pytest.raises(Unavailable, match="run trunkline migrate"):
        await keys.ensure_signing_key()


async def test_a_tenant_has_so_many_keys_revoked_ones_included_and_no_more(
    settings: Settings, database: Database, redis: Redis, tenants: Tenants
) -> None:
    keys = Keys(settings.model_copy(update={"tenant_keys": 3}), database, redis)
    await tenants.create("acme")
    await tenants.create("other")
    _, gone = await keys.issue("acme")
    _, revoked = await keys.issue("acme")
    await keys.revoke(revoked.id)
    await as_owner(
        settings.database_url, f"UPDATE api_keys SET expires_at = now() WHERE id = '{gone.id}'", task="verify"
    )
    found = await asyncio.gather(*(keys.issue("acme") for _ in range(4)), return_exceptions=True)
    assert sorted(isinstance(each, Conflict) for each in found) == [False, False, True, True]
    with pytest.raises(Conflict):
        await keys.rotate(next(each[1].id for each in found if isinstance(each, tuple)))
    await keys.issue("other")
