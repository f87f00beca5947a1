"""What nobody but us can have signed is the only thing that is believed."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.tenants.api_keys import (
    FOREIGN,
    PUBLIC,
    SIGNING,
    claims,
    encoded,
    header,
    key,
    refusal,
    signed,
    verifier,
)

from trunkline.tenants import tokens


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
