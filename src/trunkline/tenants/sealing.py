"""Secrets at rest: encrypted with the deployment's root, and bound to the record that they belong to."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from trunkline.errors import StartRefused
from trunkline.settings import Root

_VERSION = 1
_NONCE = 12
"""Bytes (NIST SP 800-38D, section 8.2); random, and no root ever seals near 2^32 secrets."""


class Sealer:
    """AES-256-GCM under a key for one purpose, derived from the root by HKDF (RFC 5869).

    It seals with the root, and opens with that and its `others`. A sealed secret is a byte of version, the nonce, and
    the ciphertext with its tag. Owner, record and version are associated data: copied to another record, it does not
    open.

    Raises:
        StartRefused: there is no root.
    """

    def __init__(self, root: SecretStr, purpose: str) -> None:
        if not root.get_secret_value():
            raise StartRefused("TRUNKLINE_SECRET_KEY is not set; secrets are encrypted with it.")
        self._ciphers = [_cipher(each, purpose) for each in Root.all_of(root)]
        self._purpose = purpose

    def seal(self, secret: bytes, owner: str, record: str) -> bytes:
        """Encrypt the secret of `record`, which belongs to `owner` (a tenant's id, or `platform`)."""
        nonce = os.urandom(_NONCE)
        return bytes([_VERSION]) + nonce + self._ciphers[0].encrypt(nonce, secret, self._bound_to(owner, record))

    def open(self, sealed: bytes, owner: str, record: str) -> bytes:
        """Decrypt what `seal` gave for the same owner and record.

        Raises:
            StartRefused: it was sealed under another root, for another record, or changed since.
        """
        opened = self.try_open(sealed, owner, record)
        if opened is None:
            raise StartRefused(
                f"The {self._purpose} {record} cannot be decrypted: TRUNKLINE_SECRET_KEY is not the one it was "
                "encrypted with."
            )
        return opened

    def try_open(self, sealed: bytes, owner: str, record: str) -> bytes | None:
        """Like `open`, for what a client sends: None where it does not open."""
        for cipher in self._ciphers:
            if (opened := self._try(cipher, sealed, owner, record)) is not None:
                return opened
        return None

    def rewrap(self, sealed: bytes, owner: str, record: str) -> bytes | None:
        """The secret sealed anew with the root; None where it is already.

        Raises:
            StartRefused: as for `open`.
        """
        if self._try(self._ciphers[0], sealed, owner, record) is not None:
            return None
        return self.seal(self.open(sealed, owner, record), owner, record)

    def _try(self, cipher: AESGCM, sealed: bytes, owner: str, record: str) -> bytes | None:
        nonce, ciphertext = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            if sealed[:1] != bytes([_VERSION]):
                return None
            return cipher.decrypt(nonce, ciphertext, self._bound_to(owner, record))
        except (InvalidTag, ValueError):
            return None

    def _bound_to(self, owner: str, record: str) -> bytes:
        return "\0".join((self._purpose, owner, record, str(_VERSION))).encode()


def _cipher(root: SecretStr, purpose: str) -> AESGCM:
    derive = HKDF(SHA256(), 32, salt=None, info=f"trunkline {purpose}".encode())
    return AESGCM(derive.derive(root.get_secret_value().encode()))
