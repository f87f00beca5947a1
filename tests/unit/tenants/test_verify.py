from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import Unauthorized, Unavailable
from trunkline.settings import Settings
from trunkline.tenants import tokens, verify
from trunkline.tenants.limits import KeyLimits
from trunkline.tenants.signing import SigningKey, VerificationKey
from trunkline.tenants.verify import UnknownSigningKey, Verifier

SETTINGS = Settings(environment="dev", public_url="https://mcp.example.com")
SIGNING = SigningKey("k1", Ed25519PrivateKey.from_private_bytes(b"1" * 32))
FOREIGN = SigningKey("k1", Ed25519PrivateKey.from_private_bytes(b"2" * 32))
PUBLIC = SIGNING.private.public_key().public_bytes_raw()
TENANT = "0" * 31 + "1"


class Keyring:
    """Keys of which one more may turn up, or the stores be away, when it is asked to look."""

    def __init__(self, *found: VerificationKey) -> None:
        self.keys = {"k1": VerificationKey("k1", "EdDSA", PUBLIC, float("inf"))}
        self.found = found
        self.looks = 0
        self.away = False

    def get(self, kid: str) -> VerificationKey | None:
        return self.keys.get(kid)

    async def refresh(self) -> frozenset[str]:
        self.looks += 1
        if self.away:
            raise Unavailable
        before = dict(self.keys)
        self.keys |= {key.kid: key for key in self.found}
        return frozenset(kid for kid, key in before.items() if self.keys[kid] != key)


class Revocations:
    def __init__(self) -> None:
        self.known: dict[str, float] = {}
        self.away = False

    async def all(self) -> dict[str, float]:
        if self.away:
            raise Unavailable
        return dict(self.known)


def verifier(keyring: Keyring | None = None, revocations: Revocations | None = None) -> Verifier:
    return Verifier(SETTINGS, keyring or Keyring(), revocations or Revocations())  # type: ignore[arg-type]


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {
        "iss": "https://mcp.example.com",
        "aud": "https://mcp.example.com/t/acme",
        "tenant": TENANT,
        "slug": "acme",
        "jti": "key_1",
        "scope": "mcp:call mcp:read",
        "tools": ["add", "files_*"],
        "iat": now,
        "exp": now + 3600,
    } | changes
    return {name: value for name, value in made.items() if value is not ...}


def key(signing: SigningKey = SIGNING, **changes: Any) -> str:
    return tokens.sign(claims(**changes), signing)


def encoded(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: object, payload: object) -> str:
    """A token with any header at all, signed by our own key."""
    body = f"{encoded(header)}.{encoded(payload)}"
    return f"tlk_{body}.{encoded(SIGNING.private.sign(body.encode()))}"


def header(**changes: Any) -> dict[str, Any]:
    return {"alg": "EdDSA", "kid": "k1", "typ": tokens.TYPE} | changes


def refusal(token: str, slug: str = "acme") -> str:
    with pytest.raises(Unauthorized) as refused:
        verifier().verify(token, slug)
    return refused.value.message


def test_a_good_key_names_its_principal() -> None:
    expires = int(time.time()) + 3600
    principal = verifier().verify(key(exp=expires), "acme")
    assert (principal.tenant_id, principal.slug, principal.key_id) == (TENANT, "acme", "key_1")
    assert principal.scopes == {"mcp:call", "mcp:read"}
    assert principal.tools == ("add", "files_*")
    assert principal.expires_at == expires


def test_a_good_key_is_verified_once_and_then_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    known, token = verifier(), key()
    first = known.verify(token, "acme")
    monkeypatch.setattr(jwt, "decode", None)
    assert known.verify(token, "acme") is first


def test_a_remembered_key_expires() -> None:
    known, token = verifier(), key()
    principal = known.verify(token, "acme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify.time, "time", lambda: principal.expires_at)
        with pytest.raises(Unauthorized, match="has expired"):
            known.verify(token, "acme")


def test_a_remembered_key_of_another_tenant_is_refused() -> None:
    known, token = verifier(), key()
    known.verify(token, "acme")
    with pytest.raises(Unauthorized, match="another tenant"):
        known.verify(token, "other")


def test_no_more_keys_are_remembered_than_the_bound_and_the_used_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MOST_KNOWN", 2)
    known = verifier()
    one, two, three = (key(jti=name) for name in ("key_1", "key_2", "key_3"))
    for token in (one, two, one, three):
        known.verify(token, "acme")
    assert set(known._known) == {one, three}


def test_an_expired_key_is_refused_without_leeway() -> None:
    assert "has expired" in refusal(key(exp=int(time.time())))
    assert "has expired" in refusal(key(exp=int(time.time()) - 3600))


def test_a_key_from_a_clock_that_is_a_little_ahead_is_good_and_one_from_the_future_is_not() -> None:
    now = int(time.time())
    assert verifier().verify(key(iat=now + 20), "acme")
    assert refusal(key(iat=now + 90)) == "This API key is not valid."
    assert refusal(key(nbf=now + 90)) == "This API key is not valid."


def test_a_key_of_another_tenant_is_refused() -> None:
    assert "another tenant" in refusal(key(), "other")
    assert "another tenant" in refusal(key(aud="https://mcp.example.com/t/other"))


def test_an_audience_list_is_refused_though_it_names_the_tenant() -> None:
    assert "another tenant" in refusal(key(aud=["https://mcp.example.com/t/acme"]))


def test_a_key_of_another_deployment_is_refused() -> None:
    assert "another deployment" in refusal(key(iss="https://other.example.com"))


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "iat", "jti", "tenant", "slug", "scope", "tools"])
def test_every_claim_is_required(name: str) -> None:
    assert refusal(key(**{name: ...}))


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "1"},
        {"tenant": 1},
        {"slug": "other"},
        {"jti": ""},
        {"jti": 7},
        {"scope": ["mcp:call"]},
        {"tools": "*"},
        {"tools": [1]},
        {"exp": "soon"},
        {"net": []},
        {"net": "192.0.2.0/24"},
        {"net": ["everywhere"]},
        {"net": [1]},
        {"lim": []},
        {"lim": {"rate": "fast"}},
        {"lim": {"rate": True}},
        {"lim": {"rate": 0}},
        {"lim": {"calls": 1.5}},
        {"lim": {"burst": 5}},
        {"lim": {"colour": 5}},
    ],
)
def test_a_claim_of_the_wrong_kind_is_refused(changes: dict[str, Any]) -> None:
    assert refusal(key(**changes)) == "This API key is not valid."


def test_a_key_signed_by_a_foreign_key_of_the_same_id_is_refused() -> None:
    assert refusal(key(FOREIGN)) == "This API key is not valid."


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256", "RS256", "ES256", "", "eddsa"])
def test_the_algorithm_is_the_one_of_our_key_whatever_the_header_says(algorithm: str) -> None:
    assert refusal(signed(header(alg=algorithm), claims())) == "This API key is not valid."
    body = f"{encoded(header(alg=algorithm))}.{encoded(claims())}"
    assert refusal(f"tlk_{body}.") == "This API key is not valid."


def test_our_public_key_is_no_secret_of_an_hmac() -> None:
    body = f"{encoded(header(alg='HS256'))}.{encoded(claims())}"
    for secret in (PUBLIC, base64.urlsafe_b64encode(PUBLIC).rstrip(b"=")):
        mac = hmac.new(secret, body.encode(), hashlib.sha256).digest()
        assert refusal(f"tlk_{body}.{encoded(mac)}") == "This API key is not valid."


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], "exp", None])
def test_an_extension_that_must_be_understood_is_refused(crit: object) -> None:
    assert refusal(signed(header(crit=crit, b64="x"), claims())) == "This API key is not valid."


def test_keys_and_addresses_of_keys_in_the_header_are_not_followed() -> None:
    foreign = FOREIGN.private.public_key().public_bytes_raw()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": encoded(foreign)}
    for extra in ({"jwk": jwk}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/x"}):
        body = f"{encoded(header(**extra))}.{encoded(claims())}"
        assert refusal(f"tlk_{body}.{encoded(FOREIGN.private.sign(body.encode()))}")


@pytest.mark.parametrize("kid", [None, 1, "", ["k1"], {"k1": 1}, "K1", "k1 ", "../k1", "k1\x00"])
def test_only_the_exact_id_of_a_signing_key_finds_it(kid: object) -> None:
    assert refusal(signed(header(kid=kid), claims())) == "This API key is not valid."


def test_a_header_without_the_id_of_a_signing_key_is_refused() -> None:
    assert refusal(signed({"alg": "EdDSA", "typ": tokens.TYPE}, claims())) == "This API key is not valid."


@pytest.mark.parametrize("kind", [None, "JWT", "at+jwt", 1])
def test_another_kind_of_token_is_no_api_key(kind: object) -> None:
    assert refusal(signed(header(typ=kind), claims())) == "This API key is not valid."


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"not json", b'"a"', b"[" * 3000])
def test_a_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    assert refusal(signed(header(), payload)) == "This API key is not valid."


@pytest.mark.parametrize("depth", [10, 900, 2000])
def test_a_deep_header_is_refused(depth: int) -> None:
    deep = b'{"alg":"EdDSA","kid":"k1","typ":"tlk+jwt","x":' + b"[" * depth + b"]" * depth + b"}"
    assert refusal(signed(deep, claims())) == "This API key is not valid."


def test_an_oversize_key_is_refused_unread() -> None:
    assert refusal(signed(header(), claims(tools=["a" * tokens.LONGEST]))) == "This API key is not valid."
    assert refusal("tlk_" + "a" * 1_000_000) == "This API key is not valid."


def test_what_has_no_prefix_is_said_to_be_no_key() -> None:
    for token in ("", "abc", key().removeprefix("tlk_"), "TLK_" + key().removeprefix("tlk_")):
        assert "begins with tlk_" in refusal(token)


@given(st.text(max_size=200))
def test_any_text_is_refused_in_one_sentence(text: str) -> None:
    for token in (text, f"tlk_{text}", f"tlk_{text}.{text}.{text}"):
        assert "\n" not in refusal(token)


TOKEN = tokens.sign(claims(exp=2**33), SIGNING)


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_a_key_with_any_character_changed_is_refused_and_not_repeated(place: int, character: str) -> None:
    tampered = TOKEN[:place] + character + TOKEN[place + 1 :]
    if tampered == TOKEN:
        assert verifier().verify(tampered, "acme")
    else:
        assert tampered not in refusal(tampered)


@given(st.integers(0, len(TOKEN) - 1))
def test_a_cut_key_is_refused(length: int) -> None:
    assert refusal(TOKEN[:length])


@pytest.mark.parametrize("decoration", ["{} ", " {}", "{}=", "{}.", "{}\n", "{}.{}"])
def test_a_decorated_key_is_refused(decoration: str) -> None:
    assert refusal(decoration.format(TOKEN, TOKEN))


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


def test_a_key_says_where_it_may_be_used_from_and_what_it_may_use() -> None:
    limits = {"rate": 2.5, "burst": 5, "in_flight": 3, "calls": 100, "calls_soft": 90, "compute": 60}
    principal = verifier().verify(key(net=["192.0.2.0/24", "2001:db8::/32"], lim=limits), "acme")
    assert [str(each) for each in principal.networks] == ["192.0.2.0/24", "2001:db8::/32"]
    assert principal.limits == KeyLimits(2.5, 5, 3, 100, 90, 60, None)
    assert principal.kid == "k1"
    assert principal.allows("192.0.2.77")
    assert principal.allows("::ffff:192.0.2.77")
    assert principal.allows("2001:db8::1")
    assert not principal.allows("192.0.3.1")
    assert not principal.allows("somewhere")


def test_a_key_from_before_there_were_limits_has_none_and_works_everywhere() -> None:
    principal = verifier().verify(key(), "acme")
    assert (principal.networks, principal.limits) == ((), None)
    assert principal.allows("203.0.113.9")
    assert principal.allows("")


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


def test_a_key_too_long_for_a_header_is_not_made() -> None:
    with pytest.raises(Exception, match="too long for an HTTP header"):
        key(tools=["a" * 64] * 100)


def test_a_jwk_is_what_rfc_8037_says() -> None:
    jwk = VerificationKey("k1", "EdDSA", PUBLIC, float("inf")).jwk()
    assert jwk == {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": "k1",
        "x": base64.urlsafe_b64encode(PUBLIC).rstrip(b"=").decode(),
    }
    token = key().removeprefix("tlk_")
    decoded = jwt.decode(token, jwt.PyJWK(jwk).key, algorithms=["EdDSA"], audience="https://mcp.example.com/t/acme")
    assert orjson.dumps(decoded)
