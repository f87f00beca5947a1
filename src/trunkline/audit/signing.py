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
        self._key = _derive(root, "trunkline audit head")

    def mac(self, head: Head) -> bytes:
        """The code of a head."""
        return hmac.digest(self._key, _HEAD_LABEL + orjson.dumps(_said(head)), "sha256")

    def holds(self, head: Head, mac: bytes) -> bool:
        """Whether `mac` is the code of this head."""
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
        self._private = Ed25519PrivateKey.from_private_bytes(_derive(root, "trunkline audit checkpoint"))

    @cached_property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    @cached_property
    def kid(self) -> str:
        """The name of the key in checkpoints and at `/.well-known/jwks.json`."""
        return _kid(self.public)

    def jwk(self) -> dict[str, str]:
        """The public key as a JSON Web Key (RFC 8037, section 2)."""
        x = base64.urlsafe_b64encode(self.public).rstrip(b"=").decode()
        return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid, "x": x}

    def sign(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its signature."""
        return checkpoint._replace(kid=self.kid, signature=self._private.sign(_signed(checkpoint)))

    def signers(self, others: Iterable[str] = ()) -> Signers:
        """This signer's public key and further ones, given in hex, by `kid`."""
        return {self.kid: self._private.public_key(), **read_signers(others)}


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


def _kid(public: bytes) -> str:
    return f"audit-{sha256(public).hexdigest()[:16]}"


def _derive(root: SecretStr, purpose: str) -> bytes:
    secret = root.get_secret_value()
    if not secret:
        raise StartRefused("TRUNKLINE_SECRET_KEY is not set; the audit log is signed with it.")
    return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(secret.encode())
