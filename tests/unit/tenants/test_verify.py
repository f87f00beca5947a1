from __future__ import annotations

import base64
import time
from typing import Any

import jwt
import orjson
import pytest
from tests.unit.tenants.api_keys import PUBLIC, TENANT, key, refusal, verifier

from trunkline.errors import Unauthorized
from trunkline.tenants import verify
from trunkline.tenants.limits import KeyLimits
from trunkline.tenants.signing import VerificationKey


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
