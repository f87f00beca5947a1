"""Operators: who runs the platform, apart from all tenants; and the codes with which they let people sign up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from uuid_utils import uuid7

from trunkline.audit.by import CLI, PLATFORM, By
from trunkline.audit.record import Recorder
from trunkline.control_errors import SignInFailed
from trunkline.db import Database, task_scope, utcnow
from trunkline.errors import Conflict, NotFound
from trunkline.settings import Settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.account_tables import OperatorRow, SignInRow, SignupCodeRow
from trunkline.tenants.failures import Failures
from trunkline.tenants.passwords import Passwords, check_password
from trunkline.tenants.people import Doors, Moment, behind, check_email
from trunkline.tenants.settable import check_name
from trunkline.tenants.sign_ins import SignIn, SignInKind, SignIns, digest_of, random_text

CODE_PREFIX: Final = "tlc_"
_OPERATOR: Final = task_scope("operator")


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who runs the platform."""

    id: str
    email: str
    name: str
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class SignupCode:
    """A code that lets somebody sign up once; the code itself is nowhere."""

    id: str
    email: str | None
    """Whose it is; None for anybody's."""
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class Operators:
    """What operators do with operators and codes. Each change is one transaction, with its event ."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        throttle: RedisThrottle,
        passwords: Passwords,
        recorder: Recorder,
    ) -> None:
        self._lifetime = timedelta(seconds=settings.invitation_lifetime)
        self._database = database
        self._doors = Doors(settings, throttle)
        self._passwords = passwords
        self._recorder = recorder
        self._failures = Failures(database, throttle, recorder)
        self._sign_ins = SignIns(settings, database)

    async def create(self, email: str, name: str, password: str, *, by: By = CLI) -> Operator:
        """A new operator. There is none from the start.

        Raises:
            UsageError: email, name or password break a rule.
            Conflict: there is one with that email.
        """
        email = check_email(email)
        hashed = await self._passwords.hash(check_password(password, email))
        row = OperatorRow(
            id=uuid7().hex,
            email=email,
            name=check_name(name or email),
            password_hash=hashed,
            created_at=utcnow(),
        )
        async with self._database.transaction(_OPERATOR) as session:
            session.add(row)
            try:
                await session.flush()
            except IntegrityError as error:
                raise Conflict(f"There is an operator {email} already.") from error
            await self._recorder.record(
                session, PLATFORM, "operator.create", by=by, target=row.id, detail={"email": email}
            )
        return _operator(row)

    async def everyone(self) -> list[Operator]:
        """All operators, oldest first."""
        async with self._database.transaction(_OPERATOR) as session:
            rows = await session.scalars(select(OperatorRow).order_by(OperatorRow.created_at))
            return [_operator(row) for row in rows]

    async def get(self, operator_id: str) -> Operator:
        """Who that is.

        Raises:
            NotFound: nobody any more.
        """
        async with self._database.transaction(_OPERATOR) as session:
            row = await session.get(OperatorRow, operator_id)
            if row is None:
                raise NotFound
            return _operator(row)

    async def disable(self, email: str, *, by: By = CLI) -> Operator:
        """Let an operator sign in no more, and end their sign-ins; what they did stays in the log.

        Raises:
            NotFound: there is none with that email.
        """
        async with self._database.transaction(_OPERATOR) as session:
            row = await session.scalar(select(OperatorRow).where(OperatorRow.email == email.strip().lower()))
            if row is None:
                raise NotFound(f"There is no operator {email!r}.")
            if row.disabled_at is None:
                row.disabled_at = utcnow()
                await session.execute(delete(SignInRow).where(SignInRow.operator_id == row.id))
                await self._recorder.record(session, PLATFORM, "operator.disable", by=by, target=row.id)
            return _operator(row)

    async def set_password(self, email: str, password: str, *, by: By = CLI) -> Operator:
        """Give an operator a new password; all their sign-ins end.

        Raises:
            NotFound: there is none with that email.
            UsageError: the password breaks a rule.
        """
        email = email.strip().lower()
        hashed = await self._passwords.hash(check_password(password, email))
        async with self._database.transaction(_OPERATOR) as session:
            row = await session.scalar(select(OperatorRow).where(OperatorRow.email == email))
            if row is None:
                raise NotFound(f"There is no operator {email!r}.")
            row.password_hash = hashed
            await session.execute(delete(SignInRow).where(SignInRow.operator_id == row.id))
            await self._recorder.record(session, PLATFORM, "operator.password", by=by, target=row.id)
            return _operator(row)

    async def sign_in(self, email: str, password: str, kind: SignInKind, by: By) -> tuple[str, SignIn]:
        """The secret of a new sign-in of an operator, told this once, and what is known of it.

        Raises:
            SignInFailed: the one sentence for all causes.
            TooManyRequests: it was tried too often.
        """
        email = email.strip().lower()
        await self._doors.operator(by.address)
        live = select(OperatorRow).where(OperatorRow.email == email, OperatorRow.disabled_at.is_(None))
        async with self._database.transaction(_OPERATOR) as session:
            row = await session.scalar(live)
        good = await self._passwords.verify(None if row is None else row.password_hash, password)
        if row is None or not good:
            await self._failures.note("operator", "" if row is None else row.id, by)
            raise SignInFailed
        by = By("operator", row.id, by.address)
        async with self._database.transaction(_OPERATOR) as session:
            await self._sign_ins.forget_expired(session)
            made = await self._sign_ins.add(session, kind, by.address, operator_id=row.id)
            await self._recorder.record(
                session, PLATFORM, "session.create", by=by, target=made[1].id, detail={"kind": kind}
            )
        return made

    async def sign_out(self, sign_in: SignIn, by: By) -> None:
        """End a sign-in of an operator."""
        async with self._database.transaction(_OPERATOR) as session:
            await self._sign_ins.end_in(session, only=sign_in.id)
            await self._recorder.record(session, PLATFORM, "session.end", by=by, target=sign_in.id)

    async def create_code(self, email: str | None, *, by: By = CLI) -> tuple[str, SignupCode]:
        """A code with which somebody, or only whoever has that email, may sign up once; it is told this once.

        Raises:
            UsageError: that is no email address.
        """
        code, now = CODE_PREFIX + random_text(), utcnow()
        row = SignupCodeRow(
            id=uuid7().hex,
            digest=digest_of(code),
            email=check_email(email) if email else None,
            created_by=f"{by.kind}:{by.id}",
            created_at=now,
            expires_at=now + self._lifetime,
        )
        async with self._database.transaction(_OPERATOR) as session:
            session.add(row)
            detail = {"email": row.email or ""}
            await self._recorder.record(session, PLATFORM, "signup_code.create", by=by, target=row.id, detail=detail)
        return code, _code(row)

    async def codes(self, after: Moment | None, limit: int) -> list[SignupCode]:
        """Codes in the order of their making, behind `after`."""
        query = select(SignupCodeRow).order_by(SignupCodeRow.created_at, SignupCodeRow.id).limit(limit)
        if after is not None:
            query = query.where(behind(SignupCodeRow.created_at, SignupCodeRow.id, after))
        async with self._database.transaction(_OPERATOR) as session:
            return [_code(row) for row in await session.scalars(query)]

    async def revoke_code(self, code_id: str, *, by: By = CLI) -> None:
        """Make a code void.

        Raises:
            NotFound: there is none of that id.
        """
        async with self._database.transaction(_OPERATOR) as session:
            row = await session.get(SignupCodeRow, code_id)
            if row is None:
                raise NotFound("There is no such code.")
            await session.delete(row)
            await session.flush()
            await self._recorder.record(session, PLATFORM, "signup_code.revoke", by=by, target=code_id)


def _operator(row: OperatorRow) -> Operator:
    return Operator(row.id, row.email, row.name, row.created_at, row.disabled_at)


def _code(row: SignupCodeRow) -> SignupCode:
    return SignupCode(row.id, row.email, row.created_at, row.expires_at, row.used_at)
