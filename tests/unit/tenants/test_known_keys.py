"""What a pod learns of revocations and signing keys, and what keys are worth by it."""

from __future__ import annotations

import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.tenants.api_keys import FOREIGN, PUBLIC, SETTINGS, Keyring, Revocations, key, verifier

from trunkline.errors import Unauthorized, Unavailable
from trunkline.tenants import verify
from trunkline.tenants.signing import SigningKey, VerificationKey
from trunkline.tenants.verify import UnknownSigningKey, Verifier


def test_a_revoked_key_is_refused_though_it_is_remembered() -> None:
    known, token = verifier(), key()
    known.verify(token, "acme")
    known.revoke("key_1", time.time())
    assert known.is_revoked("key_1")
    with pytest.raises(Unauthorized, match="was revoked"):
        known.verify(token, "acme")


def test_a_key_revoked_for_later_is_good_until_then() -> None:
    known, token = verifier(), key()
    now = time.time()
    known.revoke("key_1", now + 60)
    assert known.verify(token, "acme")
    assert not known.is_revoked("key_1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify.time, "time", lambda: now + 61)
        with pytest.raises(Unauthorized, match="was revoked"):
            known.verify(token, "acme")


def test_a_revocation_is_never_made_later() -> None:
    known = verifier()
    known.revoke("key_1", 5.0)
    known.revoke("key_1", time.time() + 60)
    assert known.is_revoked("key_1")


async def test_revocations_are_loaded_and_those_announced_meanwhile_stay() -> None:
    revocations = Revocations()
    revocations.known = {"key_1": 1.0}
    known = verifier(revocations=revocations)
    known.revoke("key_2", 1.0)
    await known.refresh()
    assert known.is_revoked("key_1")
    assert known.is_revoked("key_2")


async def test_what_redis_knows_to_be_revoked_is_refused_before_signing_keys_are_asked_for() -> None:
    revocations, keyring = Revocations(), Keyring()
    revocations.known = {"key_1": 1.0}
    keyring.away = True
    known = verifier(keyring, revocations)
    with pytest.raises(Unavailable):
        await known.refresh()
    assert known.is_revoked("key_1")


async def test_what_redis_alone_knew_to_be_revoked_stays_so_while_it_is_away() -> None:
    class Stored:
        async def look(self, *_: object, **__: object) -> dict[str, float]:
            return {"key_2": 1.0}

    revocations = Revocations()
    revocations.known = {"key_1": 1.0}
    known = Verifier(SETTINGS, Keyring(), revocations, Stored())  # type: ignore[arg-type]
    await known.refresh()
    revocations.away = True
    await known.refresh()
    assert known.is_revoked("key_1")
    assert known.is_revoked("key_2")
    revocations.away, revocations.known = False, {}
    await known.refresh()
    assert not known.is_revoked("key_1")


async def test_what_was_known_stays_when_no_store_answers() -> None:
    revocations, keyring = Revocations(), Keyring()
    known = verifier(keyring, revocations)
    known.revoke("key_1", 1.0)
    revocations.away = keyring.away = True
    with pytest.raises(Unavailable):
        await known.refresh()
    assert known.is_revoked("key_1")
    assert known.verify(key(jti="key_2"), "acme")


async def test_an_unknown_signing_key_is_looked_for_once_and_then_used() -> None:
    new = SigningKey("k2", Ed25519PrivateKey.generate())
    keyring = Keyring(VerificationKey("k2", "EdDSA", new.private.public_key().public_bytes_raw(), float("inf")))
    known = verifier(keyring)
    with pytest.raises(UnknownSigningKey):
        known.verify(key(new), "acme")
    assert (await known.authenticate(key(new), "acme")).key_id == "key_1"
    assert keyring.looks == 1


async def test_a_flood_of_unknown_signing_keys_is_looked_for_once() -> None:
    keyring = Keyring()
    known = verifier(keyring)
    for number in range(20):
        with pytest.raises(Unauthorized, match="is not valid"):
            await known.authenticate(key(SigningKey(f"unknown{number}", FOREIGN.private)), "acme")
    assert keyring.looks == 1


async def test_where_an_unknown_signing_key_cannot_be_looked_for_the_key_is_not_called_bad() -> None:
    keyring = Keyring()
    keyring.away = True
    known = verifier(keyring)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await known.authenticate(key(SigningKey("unknown", FOREIGN.private)), "acme")
    assert keyring.looks == 1


async def test_a_good_key_asks_nobody() -> None:
    keyring = Keyring()
    assert await verifier(keyring).authenticate(key(), "acme")
    assert keyring.looks == 0


async def test_a_retired_signing_key_takes_its_remembered_keys_with_it() -> None:
    keyring = Keyring()
    known, token = verifier(keyring), key()
    principal = known.verify(token, "acme")
    keyring.found = (VerificationKey("k1", "EdDSA", PUBLIC, time.time() - 1),)
    await known.refresh()
    with pytest.raises(Unauthorized, match="has expired"):
        known.verify(token, "acme")
    assert principal.expires_at > time.time()


async def test_new_and_retired_signing_keys_leave_the_keys_of_the_others_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = SigningKey("k2", Ed25519PrivateKey.generate())
    public = second.private.public_key().public_bytes_raw()
    keyring = Keyring(
        VerificationKey("k1", "EdDSA", PUBLIC, time.time() + 60),
        VerificationKey("k3", "EdDSA", FOREIGN.private.public_key().public_bytes_raw(), float("inf")),
    )
    keyring.keys["k2"] = VerificationKey("k2", "EdDSA", public, float("inf"))
    known = verifier(keyring)
    first, other = key(), key(second, jti="key_2")
    known.verify(first, "acme")
    kept = known.verify(other, "acme")
    await known.refresh()
    assert set(known._known) == {other}
    assert known.verify(first, "acme").expires_at < time.time() + 61, "it was verified again"
    monkeypatch.setattr(jwt, "decode", None)
    assert known.verify(other, "acme") is kept


def test_what_was_opened_is_good_until_its_key_is_revoked_or_its_signing_key_retired() -> None:
    keyring = Keyring()
    known = verifier(keyring)
    assert known.good_until("key_1", "k1") == float("inf")
    assert known.good_until("public", "") == float("inf")
    assert known.good_until("key_1", "unknown") == 0
    known.revoke("key_1", 500.0)
    assert known.good_until("key_1", "k1") == 500
    keyring.keys["k1"] = VerificationKey("k1", "EdDSA", PUBLIC, 400.0)
    assert known.good_until("key_1", "k1") == 400
