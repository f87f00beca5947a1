from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest
from tests.stores import as_owner

from trunkline.control_errors import IdempotencyMismatch, IdempotencyRunning
from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.tenants.idempotency import Claim, IdempotencyStore, Replay, forget

CANARY = b'{"secret": "tlk_canary"}'
TENANT, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def store(settings: Settings, database: Database) -> IdempotencyStore:
    return IdempotencyStore(database, settings.secret_key)


async def claimed(store: IdempotencyStore, tenant: str = TENANT, key: str = "k1", request: bytes = b"r") -> Claim:
    claim = await store.claim(tenant, "user:1", key, request)
    assert isinstance(claim, Claim)
    return claim


async def aged(settings: Settings, interval: str) -> None:
    """As if so much time had passed for all requests that were answered or not."""
    await as_owner(settings.database_url, "ALTER TABLE idempotency_keys NO FORCE ROW LEVEL SECURITY", task="upkeep")
    await as_owner(
        settings.database_url, f"UPDATE idempotency_keys SET created_at = created_at - interval '{interval}'",
        task="upkeep",
    )  # fmt: skip
    await as_owner(settings.database_url, "ALTER TABLE idempotency_keys FORCE ROW LEVEL SECURITY", task="upkeep")


@pytest.mark.parametrize("tenant", [TENANT, ""])
async def test_an_answer_is_given_again_for_the_same_request(store: IdempotencyStore, tenant: str) -> None:
    await store.complete(await claimed(store, tenant), 201, CANARY)
    assert await store.claim(tenant, "user:1", "k1", b"r") == Replay(201, CANARY)


async def test_another_request_with_the_same_key_is_refused(store: IdempotencyStore) -> None:
    claim = await claimed(store)
    for _ in range(2):
        with pytest.raises(IdempotencyMismatch):
            await store.claim(TENANT, "user:1", "k1", b"another")
        await store.complete(claim, 201, CANARY)


async def test_keys_of_others_are_never_met(store: IdempotencyStore) -> None:
    await store.complete(await claimed(store), 201, CANARY)
    for tenant, principal, key in (
        (OTHER, "user:1", "k1"),
        ("", "user:1", "k1"),
        (TENANT, "user:2", "k1"),
        (TENANT, "user:1", "k2"),
    ):
        assert isinstance(await store.claim(tenant, principal, key, b"r"), Claim)


async def test_of_all_who_ask_at_once_one_runs(store: IdempotencyStore) -> None:
    asked = [store.claim(TENANT, "user:1", "k1", b"r") for _ in range(10)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(each, Claim) for each in found) == 1
    assert sum(isinstance(each, IdempotencyRunning) and each.retry_after == 1 for each in found) == 9


async def test_a_request_that_made_nothing_gives_its_key_back(store: IdempotencyStore) -> None:
    await store.release(await claimed(store))
    await claimed(store, request=b"another")


async def test_a_request_without_an_end_is_not_run_again(settings: Settings, store: IdempotencyStore) -> None:
    await claimed(store)
    await aged(settings, "61 seconds")
    with pytest.raises(IdempotencyRunning, match="look whether what it makes is there"):
        await store.claim(TENANT, "user:1", "k1", b"r")


async def test_after_a_day_a_key_is_free_again(settings: Settings, store: IdempotencyStore) -> None:
    await store.complete(await claimed(store), 201, CANARY)
    await aged(settings, "24 hours")
    await claimed(store, request=b"another")


async def test_what_is_a_day_old_is_deleted_and_nothing_else(
    settings: Settings, database: Database, store: IdempotencyStore
) -> None:
    await claimed(store)
    await claimed(store, "", "signup")
    await aged(settings, "24 hours")
    await claimed(store, OTHER, "new")
    await forget(database)
    left = await as_owner(settings.database_url, "SELECT tenant_id FROM idempotency_keys", task="upkeep")
    assert [row["tenant_id"].hex for row in left] == [OTHER]


async def test_a_stored_answer_shows_nothing(settings: Settings, store: IdempotencyStore) -> None:
    await store.complete(await claimed(store), 201, CANARY)
    [row] = await as_owner(settings.database_url, "SELECT response FROM idempotency_keys", task="upkeep")
    assert b"canary" not in row["response"]


async def test_an_answer_that_was_copied_to_another_key_does_not_open(
    settings: Settings, store: IdempotencyStore
) -> None:
    await store.complete(await claimed(store), 201, CANARY)
    await store.complete(await claimed(store, key="k2"), 201, b"{}")
    await as_owner(settings.database_url, "ALTER TABLE idempotency_keys NO FORCE ROW LEVEL SECURITY", task="upkeep")
    await as_owner(
        settings.database_url,
        "UPDATE idempotency_keys SET response = (SELECT response FROM idempotency_keys ORDER BY created_at LIMIT 1)",
        task="upkeep",
    )
    with pytest.raises(IdempotencyRunning, match="cannot be read any more"):
        await store.claim(TENANT, "user:1", "k2", b"r")


async def test_what_is_kept_of_a_request_does_not_let_its_password_be_guessed(
    settings: Settings, store: IdempotencyStore
) -> None:
    request = b'POST\0/v1/signup\0{"password": "letmein"}'
    await claimed(store, request=request)
    (row,) = await as_owner(settings.database_url, "SELECT request_hash FROM idempotency_keys", task="upkeep")
    assert len(row["request_hash"]) == 32
    assert row["request_hash"] != sha256(request).digest()
    with pytest.raises(IdempotencyRunning):
        await store.claim(TENANT, "user:1", "k1", request)
