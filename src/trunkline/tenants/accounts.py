"""People's accounts: signing up with a tenant of one's own, signing in and out, passwords."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.by import PLATFORM, By
from trunkline.audit.record import Recorder
from trunkline.control_errors import SignInFailed, SignupClosed
from trunkline.db import Database, act_for, task_scope, utcnow
from trunkline.errors import Conflict, NotFound, Unavailable
from trunkline.settings import Settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.account_tables import MembershipRow, PasswordRow, SignupCodeRow, UserRow
from trunkline.tenants.failures import Failures
from trunkline.tenants.key_options import DEFAULT_LIFETIME, Wanted
from trunkline.tenants.keys import Keys, Published
from trunkline.tenants.model import DEFAULT_SCOPES, Tenant, check_slug
from trunkline.tenants.passwords import Passwords, check_password
from trunkline.tenants.patterns import ALL_TOOLS
from trunkline.tenants.people import Doors, User, check_email
from trunkline.tenants.roles import Role
from trunkline.tenants.settable import check_name
from trunkline.tenants.sign_ins import SignIn, SignInKind, SignIns, digest_of
from trunkline.tenants.tables import KeyRow, TenantRow, ToolsetRow
from trunkline.tenants.tenants import Tenants, switch, toolsets_of

FIRST_TOOLSET: Final = "demo"
"""The builtin toolset, which every worker hosts: on from the start, so that a first call finds something to call."""
FIRST_KEY: Final = "first key"
"""The name of the key that signing up gives."""
_BAD_CODE: Final = "This code is unknown, used, expired or somebody else's; ask for a new one."
_ACCOUNT: Final = task_scope("account")
_SIGNUP: Final = task_scope("signup")


@dataclass(frozen=True, slots=True)
class SignUp:
    """What somebody gives who signs up."""

    slug: str
    email: str
    password: str
    name: str = ""
    """The tenant's, and the person's; the slug where it is empty."""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Founded:
    """A tenant that somebody has made for themselves, and a key of it, shown this once."""

    tenant: Tenant
    secret: str
    """Of the key."""
    key: KeyRow


@dataclass(frozen=True, slots=True)
class SignedUp:
    """Somebody who has signed up, and is signed in."""

    founded: Founded
    user: User
    secret: str
    """Of the sign-in."""
    sign_in: SignIn


class _Made(NamedTuple):
    secret: str
    key: KeyRow
    published: Published | None
    toolsets: Sequence[ToolsetRow]


class Accounts:
    """What people do with their accounts. Each change is one transaction, with its audit event.

    Raises, from whatever takes a password or makes a tenant:
        TooManyRequests: it was tried too often.
        Unavailable: a store is away, or too many people sign in at once.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        throttle: RedisThrottle,
        tenants: Tenants,
        keys: Keys,
        passwords: Passwords,
        recorder: Recorder,
    ) -> None:
        self._settings = settings
        self._database = database
        self._doors = Doors(settings, throttle)
        self._tenants = tenants
        self._keys = keys
        self._passwords = passwords
        self._recorder = recorder
        self._failures = Failures(database, throttle, recorder)
        self.sign_ins = SignIns(settings, database)

    async def sign_up(self, wanted: SignUp, by: By) -> SignedUp:
        """A new person with a new tenant, its owner: tenant, user, membership, sign-in and key, all or nothing.

        Raises:
            SignupClosed: nobody may, or not without a code that is good.
            UsageError: slug, name, email or password break a rule.
            Conflict: the slug is taken; or the person is known, by the right password, and should sign in.
            SignInFailed: the email is known, and that is not its password.
        """
        self._check_open(wanted.code)
        await self._doors.sign_up(by.address)
        email, slug = check_email(wanted.email), check_slug(wanted.slug)
        name = check_name(wanted.name or slug)
        password = check_password(wanted.password, email)
        await self._check_code(wanted.code, email)  # whoever has none learns nothing of who has an account
        await self._refuse_known(email, password, by)
        hashed = await self._passwords.hash(password)
        user = UserRow(id=uuid7().hex, email=email, name=name, created_at=utcnow())
        by = By("user", user.id, by.address)
        async with self._database.transaction(_SIGNUP) as session:
            await self._use_code(session, wanted.code, email)
            await add_user(session, user, hashed)
            row = await self._tenants.create_in(session, slug, name)
            session.add(MembershipRow(tenant_id=row.id, user_id=user.id, role="owner", created_at=utcnow()))
            secret, sign_in = await self.sign_ins.add(session, "cookie", by.address, user_id=user.id)
            made = await self._found(session, row, by)
        return SignedUp(await self._told(row, made), user_of(user), secret, sign_in)

    async def create_tenant(self, user_id: str, slug: str, name: str, by: By) -> Founded:
        """A further tenant of somebody who has an account, with its first key.

        Raises:
            SignupClosed: signing up is not open to everybody.
            UsageError, Conflict: as for `sign_up`.
        """
        if self._settings.signup != "open":
            raise SignupClosed
        await self._doors.sign_up(by.address)
        async with self._database.transaction(_SIGNUP) as session:
            row = await self._tenants.create_in(session, slug, name)
            session.add(MembershipRow(tenant_id=row.id, user_id=user_id, role="owner", created_at=utcnow()))
            made = await self._found(session, row, by)
        return await self._told(row, made)

    async def sign_in(self, email: str, password: str, kind: SignInKind, by: By) -> tuple[str, SignIn]:
        """The secret of a new sign-in, told this once, and what is known of it.

        Raises:
            SignInFailed: the one sentence for all causes.
        """
        email = email.strip().lower()
        await self._doors.sign_in(email, by.address)
        user, stored = await self._known(email)
        if not await self._passwords.verify(stored, password) or user is None:
            await self._failures.note("sign-in", "" if user is None else user.id, by)
            raise SignInFailed
        by = By("user", user.id, by.address)
        async with self._database.transaction(_ACCOUNT) as session:
            await self.sign_ins.forget_expired(session)
            secret, sign_in = await self.sign_ins.add(session, kind, by.address, user_id=user.id)
            await self.sign_ins.seen(session, user.id)
            await self._recorder.record(
                session, PLATFORM, "session.create", by=by, target=sign_in.id, detail={"kind": kind}
            )
        return secret, sign_in

    async def find(self, secret: str, kind: SignInKind | None = None) -> SignIn | None:
        """Who is signed in with that secret, if anybody is."""
        return await self.sign_ins.find(secret, kind)

    async def sign_out(self, user_id: str, by: By, *, only: str = "") -> None:
        """End the user's sign-in of that id, or all of them.

        Raises:
            NotFound: the user has no such sign-in.
        """
        async with self._database.transaction(_ACCOUNT) as session:
            ended = await self.sign_ins.end_in(session, user_id=user_id, only=only)
            if only and not ended:
                raise NotFound("You have no such sign-in.")
            detail = {"ended": ended}
            await self._recorder.record(session, PLATFORM, "session.end", by=by, target=only, detail=detail)

    async def user(self, user_id: str) -> User:
        """Who that is.

        Raises:
            NotFound: nobody any more.
        """
        async with self._database.transaction(_ACCOUNT) as session:
            row = await session.get(UserRow, user_id)
            if row is None:
                raise NotFound
            return user_of(row)

    async def rename(self, user_id: str, name: str, by: By) -> User:
        """Call oneself something else.

        Raises:
            UsageError: that is no name.
        """
        name = check_name(name)
        async with self._database.transaction(_ACCOUNT) as session:
            row = await session.get_one(UserRow, user_id)
            row.name = name
            await self._recorder.record(session, PLATFORM, "user.update", by=by, target=user_id)
            return user_of(row)

    async def change_password(self, sign_in: SignIn, current: str, new: str, by: By) -> None:
        """A new password; every other sign-in of the user ends.

        Raises:
            SignInFailed: `current` is not the password.
            UsageError: the new one breaks a rule.
        """
        user = await self.user(sign_in.user_id)
        await self._doors.password(user.id)
        _, stored = await self._known(user.email)
        if not await self._passwords.verify(stored, current):
            await self._failures.note("password", user.id, by)
            raise SignInFailed("The current password is wrong.")
        hashed = await self._passwords.hash(check_password(new, user.email))
        async with self._database.transaction(_ACCOUNT) as session:
            password = await session.get_one(PasswordRow, user.id)
            password.hash, password.changed_at = hashed, utcnow()
            ended = await self.sign_ins.end_in(session, user_id=user.id, but=sign_in.id)
            detail = {"ended_sign_ins": ended}
            await self._recorder.record(session, PLATFORM, "password.change", by=by, target=user.id, detail=detail)

    async def memberships(self, user_id: str) -> list[tuple[str, Role]]:
        """The tenants of a user, by slug, and what the user is there."""
        async with self._database.transaction(_ACCOUNT) as session:
            query = select(TenantRow.slug, MembershipRow.role).join(
                TenantRow, TenantRow.id == MembershipRow.tenant_id
            )
            rows = await session.execute(query.where(MembershipRow.user_id == user_id).order_by(TenantRow.slug))
            return [(slug, cast("Role", role)) for slug, role in rows]

    async def role_at(self, user_id: str, tenant_id: str) -> Role | None:
        """What a user is at a tenant; None for nothing."""
        async with self._database.transaction(_ACCOUNT) as session:
            query = select(MembershipRow.role).where(
                MembershipRow.tenant_id == tenant_id, MembershipRow.user_id == user_id
            )
            return cast("Role | None", await session.scalar(query))

    def _check_open(self, code: str) -> None:
        signup = self._settings.signup
        if signup == "closed":
            raise SignupClosed
        if signup == "invite" and not code:
            raise SignupClosed("Signing up needs a code here; ask who runs this deployment for one.")

    async def _refuse_known(self, email: str, password: str, by: By) -> None:
        user, stored = await self._known(email)
        if user is None:
            return
        await self._doors.account(email, by.address)
        if not await self._passwords.verify(stored, password):
            await self._failures.note("sign-up", user.id, by)
            raise SignInFailed
        raise Conflict("You have an account already; sign in, then make a further tenant with POST /v1/tenants.")

    async def _known(self, email: str) -> tuple[UserRow | None, str | None]:
        return await known(self._database, email)

    async def _check_code(self, code: str, email: str) -> None:
        if self._settings.signup != "invite":
            return
        async with self._database.transaction(_SIGNUP) as session:
            if await session.scalar(select(SignupCodeRow.id).where(*_good(code, email))) is None:
                raise SignupClosed(_BAD_CODE)

    async def _use_code(self, session: AsyncSession, code: str, email: str) -> None:
        if self._settings.signup != "invite":
            return
        used = update(SignupCodeRow).where(*_good(code, email)).values(used_at=utcnow())
        if await session.scalar(used.returning(SignupCodeRow.id)) is None:
            raise SignupClosed(_BAD_CODE)

    async def _found(self, session: AsyncSession, row: TenantRow, by: By) -> _Made:
        """What a new tenant begins with; from here on the transaction is the tenant's."""
        await act_for(session, row.id)
        await switch(session, row.id, FIRST_TOOLSET, on=True)
        toolsets = await toolsets_of(session, row.id)
        wanted = Wanted(FIRST_KEY, DEFAULT_SCOPES, ALL_TOOLS, DEFAULT_LIFETIME)
        secret, key, published = await self._keys.issue_in(session, row, wanted, by)
        detail = {"slug": row.slug, "name": row.name, "toolsets": [FIRST_TOOLSET]}
        await self._recorder.record(session, row.id, "tenant.create", by=by, target=row.id, detail=detail)
        return _Made(secret, key, published, toolsets)

    async def _told(self, row: TenantRow, made: _Made) -> Founded:
        """Tell all pods; should Redis go away meanwhile, they find the tenant in Postgres."""
        await self._keys.publish(made.published)
        with suppress(Unavailable):
            await self._tenants.tell(row, made.toolsets)
        return Founded(self._tenants.shown(row, made.toolsets), made.secret, made.key)


def _good(code: str, email: str) -> tuple[ColumnElement[bool], ...]:
    """What is so of a code with which that address may sign up."""
    return (
        SignupCodeRow.digest == digest_of(code),
        SignupCodeRow.used_at.is_(None),
        SignupCodeRow.expires_at > utcnow(),
        or_(SignupCodeRow.email.is_(None), SignupCodeRow.email == email),
    )


async def known(database: Database, email: str) -> tuple[UserRow | None, str | None]:
    """The user of an email address and the hash of their password; neither for one who may not sign in."""
    async with database.transaction(_ACCOUNT) as session:
        query = (
            select(UserRow, PasswordRow.hash)
            .join(PasswordRow, PasswordRow.user_id == UserRow.id)
            .where(UserRow.email == email, UserRow.disabled_at.is_(None))
        )
        found = (await session.execute(query)).first()
        return (None, None) if found is None else (found[0], found[1])


async def add_user(session: AsyncSession, user: UserRow, hashed: str) -> None:
    """A new user with a password, in the caller's transaction.

    Raises:
        Conflict: somebody with that email address was a moment faster.
    """
    session.add(user)
    try:
        await session.flush()
    except IntegrityError as error:
        raise Conflict("There is an account with this email address by now; sign in.") from error
    session.add(PasswordRow(user_id=user.id, hash=hashed, changed_at=utcnow()))
    await session.flush()


def user_of(row: UserRow) -> User:
    """What is told of a user."""
    return User(row.id, row.email, row.name)
