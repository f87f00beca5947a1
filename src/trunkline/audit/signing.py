"""What makes a chain more than hashes: codes over heads, and signatures that others can check.

All keys are derived from the deployment's root (`SECRET_KEY`), so whoever has the database alone can make neither.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from trunkline.audit.chain import Checkpoint, Head
from trunkline.errors import StartRefused, UsageError
from trunkline.settings import Root

_CHECKPOINT_LABEL: Final = b"trunkline checkpoint 1\n"
_HEAD_LABEL: Final = b"trunkline audit head 1\n"

Signers = Mapping[str, Ed25519PublicKey]
"""Public keys by `kid`."""


class HeadSealer:
    """Makes and checks the codes (HMAC-SHA-256) of heads: a head that somebody else wrote has none.

    Raises:
        StartRefused: there is no root.
    """

    def __init__(self, root: SecretStr) -> None:
        self._keys = [_derive(each, "trunkline audit head") for each in Root.all_of(root)]

    def mac(self, head: Head) -> bytes:
        """The code of a head."""
        return _mac(self._keys[0], head)

    def holds(self, head: Head, mac: bytes) -> bool:
        """Whether `mac` is the code of this head, made with the root or another that is still good."""
        return any(hmac.compare_digest(_mac(key, head), mac) for key in self._keys)

    def is_newest(self, head: Head, mac: bytes) -> bool:
        """Whether `mac` was made with the root itself."""
        return hmac.compare_digest(self.mac(head), mac)

    def pack(self, head: Head) -> bytes:
        """A head with its code, for a place outside of Postgres."""
        return orjson.dumps([*_said(head), self.mac(head).hex()])

    def unpack(self, packed: bytes) -> Head | None:
        """What `pack` gave; None where it is something else, or was made under another root."""
        try:
            tenant, seq, digest, recorded_us, base_seq, broken_at, mac = orjson.loads(packed)
            head = Head(tenant, seq, bytes.fromhex(digest), recorded_us, base_seq, broken_at)
            return head if self.holds(head, bytes.fromhex(mac)) else None
        except (ValueError, TypeError):
            return None


class CheckpointSigner:
    """Signs checkpoints with Ed25519 (RFC 8032); anyone with the public key can verify them.

    Raises:
        StartRefused: there is no root.
    """

    def __init__(self, root: SecretStr) -> None:
        self._private, *self._others = (
            Ed25519PrivateKey.from_private_bytes(_derive(each, "trunkline audit checkpoint"))
            for each in Root.all_of(root)
        )

    @cached_property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    @cached_property
    def kid(self) -> str:
        """The name of the key in checkpoints and at `/.well-known/jwks.json`."""
        return _kid(self.public)

    def jwks(self) -> list[dict[str, str]]:
        """The public keys as JSON Web Keys (RFC 8037, section 2): of the root, and of others that are still good."""
        return [_jwk(each.public_key().public_bytes_raw()) for each in (self._private, *self._others)]

    def sign(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its signature."""
        return checkpoint._replace(kid=self.kid, signature=self._private.sign(_signed(checkpoint)))

    def signers(self, others: Iterable[str] = ()) -> Signers:
        """This signer's public keys and further ones, given in hex, by `kid`."""
        own = (each.public_key() for each in (self._private, *self._others))
        return {**{_kid(each.public_bytes_raw()): each for each in own}, **read_signers(others)}


def read_signers(public: Iterable[str]) -> Signers:
    """Public keys by `kid`, from their 32 bytes in hex.

    Raises:
        UsageError: one is no such key.
    """
    try:
        raw = [bytes.fromhex(each) for each in public]
        return {_kid(each): Ed25519PublicKey.from_public_bytes(each) for each in raw}
    except ValueError as error:
        raise UsageError("A signer is 32 bytes in hex, as `trunkline audit head` prints it.") from error


def verifies(checkpoint: Checkpoint, signers: Signers) -> bool:
    """Whether one of the signers has signed this checkpoint."""
    signer = signers.get(checkpoint.kid)
    if signer is None:
        return False
    try:
        signer.verify(checkpoint.signature, _signed(checkpoint))
    except InvalidSignature:
        return False
    return True


def _signed(checkpoint: Checkpoint) -> bytes:
    """The bytes that are signed (docs/audit.md)."""
    said = [checkpoint.tenant, checkpoint.seq, checkpoint.hash.hex(), checkpoint.recorded_us, checkpoint.kind]
    return _CHECKPOINT_LABEL + orjson.dumps(said)


def _said(head: Head) -> list[str | int | None]:
    return [head.tenant, head.seq, head.hash.hex(), head.recorded_us, head.base_seq, head.broken_at]


def _mac(key: bytes, head: Head) -> bytes:
    return hmac.digest(key, _HEAD_LABEL + orjson.dumps(_said(head)), "sha256")


def _jwk(public: bytes) -> dict[str, str]:
    x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": _kid(public), "x": x}


def _kid(public: bytes) -> str:
    return f"audit-{sha256(public).hexdigest()[:16]}"


def _derive(root: SecretStr, purpose: str) -> bytes:
    secret = root.get_secret_value()
    if not secret:
        raise StartRefused("TRUNKLINE_SECRET_KEY is not set; the audit log is signed with it.")
    return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(secret.encode())
