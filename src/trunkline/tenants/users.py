"""What operators do with people's accounts: lock them, unlock them, and let a password be chosen anew."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.by import CLI, PLATFORM, By
from trunkline.audit.record import Recorder
from trunkline.db import Database, task_scope, utcnow
from trunkline.errors import NotFound
from trunkline.settings import Settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.account_tables import PasswordResetRow, PasswordRow, UserRow
from trunkline.tenants.accounts import user_of
from trunkline.tenants.passwords import Passwords, check_password
from trunkline.tenants.people import Doors, User
from trunkline.tenants.sign_ins import SignIns, digest_of, random_text

RESET_PREFIX: Final = "tlr_"
RESET_LIFETIME: Final = timedelta(days=1)
_ACCOUNT: Final = task_scope("account")
_NO_RESET: Final = "There is no such password reset; it may be used, replaced or expired. Ask for a new one."


class Users:
    """What is done with accounts by those who run the platform. Each change is one transaction, with its event.

    Raises, from whatever names an account:
        NotFound: there is none with that email.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        throttle: RedisThrottle,
        passwords: Passwords,
        recorder: Recorder,
    ) -> None:
        self._database = database
        self._doors = Doors(settings, throttle)
        self._passwords = passwords
        self._recorder = recorder
        self._sign_ins = SignIns(settings, database)

    async def disable(self, email: str, *, by: By = CLI) -> User:
        """Let somebody sign in no more and end their sign-ins; memberships and keys that they issued stay."""
        async with self._database.transaction(_ACCOUNT) as session:
            row = await _read(session, email)
            if row.disabled_at is None:
                row.disabled_at = utcnow()
                await session.execute(delete(PasswordResetRow).where(PasswordResetRow.user_id == row.id))
                detail = {"ended_sign_ins": await self._sign_ins.end_in(session, user_id=row.id)}
                await self._recorder.record(session, PLATFORM, "user.disable", by=by, target=row.id, detail=detail)
            return user_of(row)

    async def enable(self, email: str, *, by: By = CLI) -> User:
        """Let somebody sign in again."""
        async with self._database.transaction(_ACCOUNT) as session:
            row = await _read(session, email)
            if row.disabled_at is not None:
                row.disabled_at = None
                await self._recorder.record(session, PLATFORM, "user.enable", by=by, target=row.id)
            return user_of(row)

    async def reset(self, email: str, *, by: By = CLI) -> tuple[str, datetime]:
        """A secret with which somebody chooses a new password once, told this once, and until when.

        One that they had before is void. Their password stays good until then.
        """
        secret, until = RESET_PREFIX + random_text(), utcnow() + RESET_LIFETIME
        async with self._database.transaction(_ACCOUNT) as session:
            row = await _read(session, email)
            values = {"digest": digest_of(secret), "created_by": f"{by.kind}:{by.id}", "expires_at": until}
            wanted = insert(PasswordResetRow).values(user_id=row.id, **values)
            await session.execute(wanted.on_conflict_do_update(index_elements=["user_id"], set_=values))
            await self._recorder.record(session, PLATFORM, "password.reset", by=by, target=row.id)
        return secret, until

    async def accept_reset(self, secret: str, password: str, by: By) -> None:
        """Choose a new password by a secret of `reset`; every sign-in ends.

        Raises:
            TooManyRequests: it was tried too often.
            NotFound: the secret is unknown, used, replaced or expired, or its account is disabled.
            UsageError: the password breaks a rule; the secret stays good.
        """
        await self._doors.code(by.address)
        good = (PasswordResetRow.digest == digest_of(secret), PasswordResetRow.expires_at > utcnow())
        found = (
            select(UserRow)
            .join(PasswordResetRow, PasswordResetRow.user_id == UserRow.id)
            .where(*good, UserRow.disabled_at.is_(None))
        )
        async with self._database.transaction(_ACCOUNT) as session:
            user = await session.scalar(found)
        if user is None:
            raise NotFound(_NO_RESET)
        hashed = await self._passwords.hash(check_password(password, user.email))
        by = By("user", user.id, by.address)
        async with self._database.transaction(_ACCOUNT) as session:
            used = delete(PasswordResetRow).where(*good).returning(PasswordResetRow.user_id)
            if await session.scalar(used) is None:
                raise NotFound(_NO_RESET)
            changed = update(PasswordRow).where(PasswordRow.user_id == user.id)
            await session.execute(changed.values(hash=hashed, changed_at=utcnow()))
            detail = {"ended_sign_ins": await self._sign_ins.end_in(session, user_id=user.id), "reset": True}
            await self._recorder.record(session, PLATFORM, "password.change", by=by, target=user.id, detail=detail)


async def _read(session: AsyncSession, email: str) -> UserRow:
    row = await session.scalar(select(UserRow).where(UserRow.email == email.strip().lower()).with_for_update())
    if row is None:
        raise NotFound(f"There is no user {email!r}.")
    return row
