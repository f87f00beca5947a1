"""The key pairs that sign API keys: the private half sealed in Postgres, the public half known to every pod."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.db import Database, task_scope, utcnow
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants.announce import SIGNING_KEYS
from trunkline.tenants.sealing import Sealer
from trunkline.tenants.tables import SigningKeyRow
from trunkline.tenants.tenants import next_version

ALGORITHM = "EdDSA"
"""Ed25519 (RFC 8032), by its name in RFC 8037."""

OWNER = "platform"
"""Whose signing keys are."""
_CREATION_LOCK = 0x7369676E  # "sign"
_USE_LOCK = 0x7369676F
"""Shared by all who sign an API key, until it is committed; alone for whoever retires a signing key."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What signs a new API key."""

    kid: str
    private: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """What verifies the API keys that name `kid`."""

    kid: str
    algorithm: str
    public: bytes
    """32 bytes (RFC 8032, section 5.1.5)."""
    retired_at: float
    """Epoch seconds from which nothing that it signed is accepted; infinite while it signs."""

    @property
    def key(self) -> Ed25519PublicKey:
        """The key as the verifying library takes it."""
        return Ed25519PublicKey.from_public_bytes(self.public)

    def jwk(self) -> dict[str, str]:
        """The key as a JSON Web Key (RFC 8037, section 2)."""
        x = base64.urlsafe_b64encode(self.public).rstrip(b"=").decode()
        return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": self.algorithm, "kid": self.kid, "x": x}


def signing_sealer(settings: Settings) -> Sealer:
    """What opens and seals private signing keys."""
    return Sealer(settings.root, "signing key")


async def load_signing_key(session: AsyncSession, sealer: Sealer) -> tuple[SigningKey, bool]:
    """The key that signs now, and whether it was made just now, in this transaction, because there was none.

    Two processes that find none at the same moment make one. It is not retired before this transaction has ended.
    """
    await session.execute(select(func.pg_advisory_xact_lock_shared(_USE_LOCK)))
    row = await newest(session)
    created = False
    if row is None:
        await session.execute(select(func.pg_advisory_xact_lock(_CREATION_LOCK)))
        row = await newest(session)
    if row is None:
        row, created = _new_row(sealer), True
        session.add(row)
        await session.flush()
    private = Ed25519PrivateKey.from_private_bytes(sealer.open(row.private_key, OWNER, row.kid))
    return SigningKey(row.kid, private), created


async def add_signing_key(session: AsyncSession, sealer: Sealer, ahead: timedelta) -> SigningKeyRow:
    """A further key pair, that signs after `ahead`."""
    await session.execute(select(func.pg_advisory_xact_lock(_CREATION_LOCK)))
    row = _new_row(sealer)
    row.not_before = row.created_at + ahead
    session.add(row)
    await session.flush()
    return row


async def wait_for_signers(session: AsyncSession) -> None:
    """Wait until all API keys that are being signed are committed; none is signed until this transaction ends."""
    await session.execute(select(func.pg_advisory_xact_lock(_USE_LOCK)))


async def load_verification_keys(session: AsyncSession) -> tuple[int, list[VerificationKey]]:
    """All keys that verify, and the version of this state for its snapshot."""
    now = utcnow()
    accepted = or_(SigningKeyRow.retired_at.is_(None), SigningKeyRow.retired_at > now)
    rows = await session.scalars(select(SigningKeyRow).where(accepted).order_by(SigningKeyRow.kid))
    keys = [
        VerificationKey(
            row.kid,
            row.algorithm,
            row.public_key,
            row.retired_at.timestamp() if row.retired_at else float("inf"),
        )
        for row in rows
    ]
    return await next_version(session), keys


def encode_keys(keys: Iterable[VerificationKey]) -> bytes:
    """The snapshot of the public keys."""
    return orjson.dumps(
        [
            [key.kid, key.algorithm, key.public.hex(), None if key.retired_at == float("inf") else key.retired_at]
            for key in keys
        ]
    )


def decode_keys(snapshot: bytes) -> list[VerificationKey]:
    """The public keys that a snapshot holds."""
    return [
        VerificationKey(kid, algorithm, bytes.fromhex(public), float("inf") if retired is None else retired)
        for kid, algorithm, public, retired in orjson.loads(snapshot)
    ]


class Keyring:
    """The public keys that this process knows, from Postgres or, where that is away, from Redis."""

    def __init__(self, snapshots: Snapshots, database: Database | None = None) -> None:
        self._snapshots = snapshots
        self._database = database
        self._keys: Mapping[str, VerificationKey] = {}

    def get(self, kid: str) -> VerificationKey | None:
        """The key of exactly that id."""
        return self._keys.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The document at `/.well-known/jwks.json` (RFC 7517, section 5)."""
        return {"keys": [key.jwk() for key in self._keys.values()]}

    async def refresh(self) -> frozenset[str]:
        """Load the keys anew; those that are not what they were, or not known any more. New ones are not among them.

        Raises:
            Unavailable: neither Postgres nor Redis has them; what was known stays.
        """
        before, self._keys = self._keys, {key.kid: key for key in await self._load()}
        return frozenset(kid for kid, key in before.items() if self._keys.get(kid) != key)

    async def _load(self) -> list[VerificationKey]:
        if self._database is not None:
            try:
                version, keys = await self._database.look(load_verification_keys, scope=task_scope("verify"))
            except Unavailable:
                pass
            else:
                await self._keep(version, keys)
                return keys
        snapshot = await self._snapshots.get(SIGNING_KEYS, "all")
        if snapshot is None:
            raise Unavailable("No signing keys are known yet and Postgres is away; try again later.", retry_after=2)
        return decode_keys(snapshot)

    async def _keep(self, version: int, keys: list[VerificationKey]) -> None:
        """Leave them in Redis for pods that start while Postgres is away; the next refresh repairs a failure."""
        try:
            await self._snapshots.put(SIGNING_KEYS, "all", version, encode_keys(keys))
        except Unavailable:
            return


async def newest(session: AsyncSession) -> SigningKeyRow | None:
    """The key that signs now."""
    query = select(SigningKeyRow).where(SigningKeyRow.retired_at.is_(None), SigningKeyRow.not_before <= utcnow())
    return await session.scalar(query.order_by(SigningKeyRow.not_before.desc(), SigningKeyRow.kid.desc()).limit(1))


def _new_row(sealer: Sealer) -> SigningKeyRow:
    private = Ed25519PrivateKey.generate()
    kid = uuid7().hex
    now = utcnow()
    return SigningKeyRow(
        kid=kid,
        algorithm=ALGORITHM,
        public_key=private.public_key().public_bytes_raw(),
        private_key=sealer.seal(private.private_bytes_raw(), OWNER, kid),
        created_at=now,
        not_before=now,
    )
