"""Sign-ins: what a browser's cookie or a script's token stands for, by the digest of its secret."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.db import Database, task_scope, utcnow
from trunkline.settings import Settings
from trunkline.tenants.account_tables import OperatorRow, SignInRow, UserRow

SignInKind = Literal["cookie", "token"]
"""A browser's, or a script's."""
TOKEN_PREFIX: Final = "tls_"  # noqa: S105 - what every token begins with
"""In front of a token, so that it is told from an API key, and found by secret scanners."""

LONGEST_SIGN_IN: Final = timedelta(days=7)
"""A cookie is good for no longer, however much it is used, unless SIGN_IN_LIFETIME is longer."""
_SECRET_BYTES: Final = 32
_LONGEST_SECRET: Final = 256
_RENEW_AFTER: Final = timedelta(minutes=1)
"""A cookie's use is written down at most this often."""
_ACCOUNT: Final = task_scope("account")


@dataclass(frozen=True, slots=True)
class SignIn:
    """Somebody who is signed in; the secret itself is nowhere."""

    id: str
    """The digest of the secret in hex, which stands for it in lists and paths."""
    kind: SignInKind
    user_id: str
    """Empty for an operator."""
    operator_id: str
    """Empty for a user."""
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str


def new_secret(kind: SignInKind) -> str:
    """The secret of a new sign-in."""
    return (TOKEN_PREFIX if kind == "token" else "") + random_text()


def random_text() -> str:
    """32 random bytes as text that may stand in a cookie, a header and a URL's fragment."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).rstrip(b"=").decode()


def digest_of(secret: str) -> bytes:
    """What is stored in a secret's stead. It has 256 random bits, so one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).digest()


class SignIns:
    """Keeps sign-ins in Postgres: without it nobody is signed in."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._lifetime = {
            "cookie": timedelta(seconds=settings.sign_in_lifetime),
            "token": timedelta(seconds=settings.token_lifetime),
        }

    async def add(
        self, session: AsyncSession, kind: SignInKind, address: str, *, user_id: str = "", operator_id: str = ""
    ) -> tuple[str, SignIn]:
        """A new sign-in in the caller's transaction, with its secret, which is told this once."""
        secret, now = new_secret(kind), utcnow()
        row = SignInRow(
            digest=digest_of(secret),
            kind=kind,
            user_id=user_id or None,
            operator_id=operator_id or None,
            created_at=now,
            last_seen_at=now,
            expires_at=now + self._lifetime[kind],
            address=address,
        )
        session.add(row)
        await session.flush()
        return secret, _sign_in(row)

    async def find(self, secret: str, kind: SignInKind | None = None) -> SignIn | None:
        """Who is signed in with that secret, if anybody is; a cookie lives on by that.

        Raises:
            Unavailable: Postgres is away.
        """
        if not 0 < len(secret) <= _LONGEST_SECRET or (kind is not None and _kind_of(secret) != kind):
            return None
        digest, now = digest_of(secret), utcnow()
        async with self._database.transaction(_ACCOUNT) as session:
            query = (
                select(SignInRow)
                .outerjoin(UserRow, UserRow.id == SignInRow.user_id)
                .outerjoin(OperatorRow, OperatorRow.id == SignInRow.operator_id)
                .where(SignInRow.digest == digest, SignInRow.expires_at > now)
                .where(UserRow.disabled_at.is_(None), OperatorRow.disabled_at.is_(None))
            )
            row = await session.scalar(query)
            if row is None:
                return None
            if row.kind == "cookie" and row.last_seen_at < now - _RENEW_AFTER:
                return await self._renew(session, _sign_in(row), now)
            return _sign_in(row)

    async def _renew(self, session: AsyncSession, known: SignIn, now: datetime) -> SignIn | None:
        """The sign-in, kept for longer; None where it was ended meanwhile."""
        lifetime = self._lifetime["cookie"]
        until = min(now + lifetime, known.created_at + max(LONGEST_SIGN_IN, lifetime))
        query = update(SignInRow).where(SignInRow.digest == bytes.fromhex(known.id))
        query = query.values(last_seen_at=now, expires_at=until).execution_options(synchronize_session=False)
        if await session.scalar(query.returning(SignInRow.kind)) is None:
            return None
        return replace(known, last_seen_at=now, expires_at=until)

    async def of_user(self, user_id: str) -> list[SignIn]:
        """Where a user is signed in, latest first."""
        async with self._database.transaction(_ACCOUNT) as session:
            query = select(SignInRow).where(SignInRow.user_id == user_id, SignInRow.expires_at > utcnow())
            return [_sign_in(row) for row in await session.scalars(query.order_by(SignInRow.created_at.desc()))]

    async def end_in(self, session: AsyncSession, *, user_id: str = "", only: str = "", but: str = "") -> int:
        """End sign-ins of a user in the caller's transaction: one, or all but one, by id; how many there were."""
        query = delete(SignInRow)
        if user_id:
            query = query.where(SignInRow.user_id == user_id)
        if only:
            query = query.where(SignInRow.digest == bytes.fromhex(only))
        if but:
            query = query.where(SignInRow.digest != bytes.fromhex(but))
        ended = await session.scalars(query.returning(SignInRow.digest))
        return len(ended.all())

    async def forget_expired(self, session: AsyncSession) -> None:
        """Remove what nobody can use any more, in the caller's transaction."""
        await session.execute(delete(SignInRow).where(SignInRow.expires_at < utcnow()))

    async def seen(self, session: AsyncSession, user_id: str) -> None:
        """Note that a user signed in just now."""
        await session.execute(update(UserRow).where(UserRow.id == user_id).values(last_sign_in_at=utcnow()))


def _kind_of(secret: str) -> SignInKind:
    return "token" if secret.startswith(TOKEN_PREFIX) else "cookie"


def _sign_in(row: SignInRow) -> SignIn:
    return SignIn(
        id=row.digest.hex(),
        kind="token" if row.kind == "token" else "cookie",
        user_id=row.user_id or "",
        operator_id=row.operator_id or "",
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        expires_at=row.expires_at,
        address=row.address,
    )
