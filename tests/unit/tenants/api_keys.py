"""API keys made with a known signing key, forged ones too, and what verifies them with stores that answer as told."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trunkline.errors import Unauthorized, Unavailable
from trunkline.settings import Settings
from trunkline.tenants import tokens
from trunkline.tenants.signing import SigningKey, VerificationKey
from trunkline.tenants.verify import Verifier

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
