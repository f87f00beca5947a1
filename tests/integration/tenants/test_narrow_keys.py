"""What a key may be bound to, how it is replaced by a narrower one, and who may see it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.stores import as_owner

from trunkline.audit.by import By
from trunkline.control_errors import KeyNotFound
from trunkline.db import Database, utcnow
from trunkline.errors import UsageError
from trunkline.settings import Settings
from trunkline.tenants.key_options import KeyChanges
from trunkline.tenants.keys import Keys
from trunkline.tenants.last_use import LastUse
from trunkline.tenants.limits import KeyLimits
from trunkline.tenants.model import Tenant
from trunkline.tenants.tenants import Tenants
from trunkline.tenants.verify import Verifier

WHO = By("user", "0" * 31 + "1", "192.0.2.9")


@pytest.fixture
async def acme(tenants: Tenants) -> Tenant:
    return await tenants.create("acme")


async def test_what_a_key_is_bound_to_is_in_its_record_and_in_what_it_claims(
    acme: Tenant, keys: Keys, verifier: Verifier
) -> None:
    limits = KeyLimits(rate=2.5, in_flight=3, calls=100)
    token, record = await keys.issue("acme", addresses=["192.0.2.0/24"], limits=limits, by=WHO)
    assert (record.addresses, record.limits) == (("192.0.2.0/24",), limits._replace(burst=3))
    assert record.created_by == f"user:{WHO.id}"
    principal = await verifier.authenticate(token, "acme")
    assert principal.limits == record.limits
    assert [str(each) for each in principal.networks] == ["192.0.2.0/24"]
    assert await keys.get(acme.id, record.id) == record


async def test_the_event_of_a_key_tells_what_it_is_bound_to_and_who_issued_it(
    settings: Settings, acme: Tenant, keys: Keys
) -> None:
    await keys.issue("acme", addresses=["192.0.2.1"], limits=KeyLimits(rate=0.5), by=WHO)
    (event,) = await as_owner(
        settings.database_url, "SELECT * FROM audit_events WHERE action = 'key.issue'", task="audit"
    )
    assert event["tenant_id"].hex == acme.id
    assert event["actor"] == WHO.id
    assert '"rate": "0.5"' in event["detail"], "the log has no fractions"
    assert "192.0.2.1/32" in event["detail"]


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    "options",
    [
        {"addresses": ["here"]},
        {"limits": KeyLimits(burst=1)},
        {"limits": KeyLimits(calls=1, calls_soft=2)},
        {"scopes": ["mcp:all"]},
        {"expires": timedelta(days=400)},
    ],
)
async def test_a_key_that_cannot_be_is_refused_and_nothing_is_stored(keys: Keys, options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        await keys.issue("acme", **options)  # type: ignore[arg-type]
    assert await keys.list("acme") == ()


async def test_a_rotated_key_keeps_what_it_was_bound_to_or_is_narrowed(
    acme: Tenant, keys: Keys, verifier: Verifier
) -> None:
    _, old = await keys.issue(
        "acme", scopes=["mcp:call"], tools=["files_*"], addresses=["10.0.0.0/8"], limits=KeyLimits(calls=100)
    )
    changes = KeyChanges(tools=("files_read",), limits=KeyLimits(calls=10), lifetime=timedelta(days=1))
    token, new = await keys.rotate(old.id, changes=changes, tenant_id=acme.id)
    assert (new.scopes, new.tools, new.addresses) == (("mcp:call",), ("files_read",), ("10.0.0.0/8",))
    assert new.limits == KeyLimits(calls=10)
    assert new.expires_at - new.created_at == timedelta(days=1)
    assert (await verifier.authenticate(token, "acme")).limits == KeyLimits(calls=10)


@pytest.mark.parametrize(
    "changes",
    [
        KeyChanges(tools=("*",)),
        KeyChanges(addresses=()),
        KeyChanges(addresses=("10.0.0.0/7",)),
        KeyChanges(limits=KeyLimits(calls=101)),
        KeyChanges(limits=KeyLimits(rate=1)),
        KeyChanges(lifetime=timedelta(days=91)),
    ],
)
async def test_rotation_widens_nothing(acme: Tenant, keys: Keys, changes: KeyChanges) -> None:
    _, old = await keys.issue("acme", tools=["files_*"], addresses=["10.0.0.0/8"], limits=KeyLimits(calls=100))
    with pytest.raises(UsageError, match="only narrow"):
        await keys.rotate(old.id, changes=changes)
    assert await keys.list("acme") == (old,)


async def test_keys_are_paged_from_the_newest_on_and_none_comes_twice(acme: Tenant, keys: Keys) -> None:
    issued = [(await keys.issue("acme", name=f"k{number}"))[1] for number in range(7)]
    found, after = [], None
    while page := await keys.page(acme.id, after, 3):
        found += page
        after = page[-1].created_at, page[-1].id
    assert [record.id for record in found] == [record.id for record in reversed(issued)]


async def test_the_keys_of_another_tenant_do_not_exist(acme: Tenant, tenants: Tenants, keys: Keys) -> None:
    other = await tenants.create("other")
    _, theirs = await keys.issue("other")
    for attempt in (
        keys.get(acme.id, theirs.id),
        keys.rename(acme.id, theirs.id, "mine", WHO),
        keys.rotate(theirs.id, tenant_id=acme.id),
        keys.revoke(theirs.id, tenant_id=acme.id),
        keys.get(acme.id, "key_" + "0" * 32),
        keys.get(acme.id, "key_\0"),
    ):
        with pytest.raises(KeyNotFound) as missing:
            await attempt
        assert missing.value.message == KeyNotFound().message, "word for word that of a key that never was"
    assert await keys.page(acme.id, None, 10) == ()
    assert await keys.get(other.id, theirs.id) == theirs


async def test_a_key_is_renamed_once_and_that_is_one_event(settings: Settings, acme: Tenant, keys: Keys) -> None:
    _, record = await keys.issue("acme", name="old")
    for _ in range(2):
        assert (await keys.rename(acme.id, record.id, "new", WHO)).name == "new"
    with pytest.raises(UsageError, match="A name has"):
        await keys.rename(acme.id, record.id, " ", WHO)
    query = "SELECT count(*) FROM audit_events WHERE action = 'key.rename'"
    assert (await as_owner(settings.database_url, query, task="audit"))[0]["count"] == 1


async def test_a_key_says_when_it_was_last_used_and_never_earlier(
    settings: Settings, acme: Tenant, keys: Keys, database: Database
) -> None:
    _, one = await keys.issue("acme")
    _, two = await keys.issue("acme")
    now = utcnow().timestamp()
    times = iter([now, now - 100, now - 50, now])
    first, second = LastUse(database, lambda: next(times)), LastUse(database, lambda: next(times))
    first.note(one.id)
    second.note(one.id)
    second.note(two.id)
    second.note("key_" + "0" * 32)
    for pod in (first, second):
        await pod.write()
    used = {record.id: record.last_used_at for record in await keys.list("acme")}
    assert {key: at and round(at.timestamp() - now) for key, at in used.items()} == {one.id: 0, two.id: -50}


async def test_last_uses_wait_for_postgres_and_no_more_than_so_many(
    acme: Tenant, keys: Keys, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, record = await keys.issue("acme")
    monkeypatch.setattr("trunkline.tenants.last_use.MOST_NOTED", 2)
    clock = iter(range(1_000, 2_000))
    uses = LastUse(Database("postgresql://nobody@127.0.0.1:1/nothing"), lambda: float(next(clock)))
    for key in ("key_old", "key_older", record.id, "key_new"):
        uses.note(key)
    await uses.write()
    assert set(uses._noted) == {record.id, "key_new"}
    uses._database = database
    await uses.write()
    assert not uses._noted
    assert (await keys.get(acme.id, record.id)).last_used_at is not None
