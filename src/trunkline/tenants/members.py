"""A tenant's members and invitations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast

from sqlalchemy import ColumnElement, Update, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.by import By
from trunkline.audit.record import Recorder
from trunkline.control_errors import InvitationNotFound, MemberNotFound, SignInFailed
from trunkline.db import Database, act_for, task_scope, tenant_scope, utcnow
from trunkline.errors import Conflict, Forbidden
from trunkline.settings import Settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.account_tables import InvitationRow, MembershipRow, UserRow
from trunkline.tenants.accounts import add_user, known, user_of
from trunkline.tenants.announce import RevokedKey
from trunkline.tenants.failures import Failures
from trunkline.tenants.key_room import revoke_issued
from trunkline.tenants.passwords import Passwords, check_password
from trunkline.tenants.people import Doors, Moment, User, behind, check_email
from trunkline.tenants.roles import ROLES, Role, may_make
from trunkline.tenants.settable import check_name
from trunkline.tenants.sign_ins import SignIn, SignIns, digest_of, random_text

INVITATION_PREFIX: Final = "tli_"
_ACCOUNT: Final = task_scope("account")


@dataclass(frozen=True, slots=True)
class Member:
    """A user, and what they are at a tenant."""

    user: User
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Invitation:
    """An offer of a role; its secret is nowhere."""

    id: str
    email: str
    role: Role
    created_at: datetime
    expires_at: datetime


class Members:
    """What members do with members. Each change is one transaction, with its audit event.

    Raises, from whatever changes a member:
        Forbidden: only owners make, change and remove owners.
        MemberNotFound: the tenant has no such member.
        Conflict: the tenant would be without an owner.
    """

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

    async def page(self, tenant_id: str, after: Moment | None, limit: int) -> list[Member]:
        """Members in the order of their joining, behind `after`."""
        query = (
            select(MembershipRow, UserRow)
            .join(UserRow, UserRow.id == MembershipRow.user_id)
            .where(MembershipRow.tenant_id == tenant_id)
            .order_by(MembershipRow.created_at, MembershipRow.user_id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(behind(MembershipRow.created_at, MembershipRow.user_id, after))
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            return [_member(membership, user) for membership, user in await session.execute(query)]

    async def find(self, tenant_id: str, email: str) -> Member:
        """The member with that email address.

        Raises:
            MemberNotFound: there is none.
        """
        query = (
            select(MembershipRow, UserRow)
            .join(UserRow, UserRow.id == MembershipRow.user_id)
            .where(MembershipRow.tenant_id == tenant_id, UserRow.email == email.strip().lower())
        )
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            found = (await session.execute(query)).first()
        if found is None:
            raise MemberNotFound(f"The tenant has no member {email!r}.")
        return _member(found[0], found[1])

    async def set_role(self, tenant_id: str, user_id: str, role: Role, maker: Role, by: By) -> Member:
        """Give a member another role; `maker` is that of whoever does it.

        Who may do less from then on leaves no invitation behind that waits.
        """
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            membership, user = await _read(session, tenant_id, user_id)
            await _check_change(session, membership, role, maker)
            was, membership.role = membership.role, role
            if was != role:
                await session.flush()
                detail: dict[str, object] = {"from": was, "to": role}
                if was == "owner" or "members:manage" not in ROLES[role]:
                    detail["void_invitations"] = await _void_made_by(session, tenant_id, user_id)
                await self._recorder.record(session, tenant_id, "member.role", by=by, target=user_id, detail=detail)
            return _member(membership, user)

    async def remove(
        self, tenant_id: str, user_id: str, maker: Role, by: By, *, revoke_keys: bool = False
    ) -> list[RevokedKey]:
        """Take a member out of the tenant, or let them leave; the account stays. Invitations that they made are void.

        Returns:
            The keys that were revoked with that, which the pods are yet to be told.
        """
        leaving = (by.kind, by.id) == ("user", user_id)
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            membership, _ = await _read(session, tenant_id, user_id)
            await _check_change(session, membership, None, "owner" if leaving else maker)
            await session.delete(membership)
            await session.flush()
            void, now = await _void_made_by(session, tenant_id, user_id), utcnow()
            keys = await revoke_issued(session, tenant_id, f"user:{user_id}", now) if revoke_keys else []
            detail = {"role": membership.role, "void_invitations": void, "revoked_keys": len(keys)}
            for key in keys:
                told = {"name": key.name, "refused_from": now.isoformat()}
                await self._recorder.record(session, tenant_id, "key.revoke", by=by, target=key.id, detail=told)
            await self._recorder.record(session, tenant_id, "member.remove", by=by, target=user_id, detail=detail)
        return [RevokedKey(key.id, now.timestamp(), key.expires_at.timestamp()) for key in keys]

    async def invite(self, tenant_id: str, email: str, role: Role, maker: Role, by: By) -> tuple[str, Invitation]:
        """An invitation with its secret, which is told this once; one that the address had before is void.

        Raises:
            Forbidden: only owners invite owners.
            UsageError: that is no email address.
            Conflict: they are a member already.
            TooManyRequests: the tenant has invited too many.
        """
        email = check_email(email)
        _check_may(maker, role)
        await self._doors.invite(tenant_id)
        secret, now = INVITATION_PREFIX + random_text(), utcnow()
        row = InvitationRow(
            id=uuid7().hex,
            tenant_id=tenant_id,
            email=email,
            role=role,
            digest=digest_of(secret),
            created_by=f"{by.kind}:{by.id}",
            created_at=now,
            expires_at=now + self._lifetime,
        )
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            if await _is_member(session, tenant_id, email):
                raise Conflict(f"{email} is a member already.")
            await session.execute(_void(tenant_id).where(InvitationRow.email == email).values(revoked_at=now))
            session.add(row)
            detail = {"email": email, "role": role}
            await self._recorder.record(session, tenant_id, "member.invite", by=by, target=row.id, detail=detail)
        return secret, _invitation(row)

    async def invitations(self, tenant_id: str, after: Moment | None, limit: int) -> list[Invitation]:
        """Invitations that wait, in the order of their making, behind `after`."""
        query = (
            select(InvitationRow)
            .where(InvitationRow.tenant_id == tenant_id, *_waiting())
            .order_by(InvitationRow.created_at, InvitationRow.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(behind(InvitationRow.created_at, InvitationRow.id, after))
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            return [_invitation(row) for row in await session.scalars(query)]

    async def revoke_invitation(self, tenant_id: str, invitation_id: str, by: By) -> None:
        """Make an invitation void.

        Raises:
            InvitationNotFound: none of that id waits.
        """
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            void = _void(tenant_id).where(InvitationRow.id == invitation_id).values(revoked_at=utcnow())
            email = await session.scalar(void.returning(InvitationRow.email))
            if email is None:
                raise InvitationNotFound
            detail = {"email": email}
            await self._recorder.record(
                session, tenant_id, "invitation.revoke", by=by, target=invitation_id, detail=detail
            )

    async def accept(self, secret: str, name: str, password: str, by: By) -> tuple[str, SignIn]:
        """Take an invitation up: the account that its address has, or a new one, becomes a member and is signed in.

        Raises:
            InvitationNotFound: it is unknown, used, void or expired.
            SignInFailed: the address has an account, and that is not its password.
            UsageError: name or password of a new account break a rule.
            Conflict: they are a member already.
        """
        await self._doors.code(by.address)
        invitation = await self._find(secret)
        await self._doors.account(invitation.email, by.address)
        user, stored = await known(self._database, invitation.email)
        hashed = ""
        if user is not None:
            if not await self._passwords.verify(stored, password):
                await self._failures.note("invitation", user.id, by)
                raise SignInFailed("You have an account already; give its password.")
        else:
            name = check_name(name or invitation.email.partition("@")[0])
            hashed = await self._passwords.hash(check_password(password, invitation.email))
        async with self._database.transaction(_ACCOUNT) as session:
            if user is None:
                user = UserRow(id=uuid7().hex, email=invitation.email, name=name, created_at=utcnow())
                await add_user(session, user, hashed)
            made = await self._sign_ins.add(session, "cookie", by.address, user_id=user.id)
            await self._sign_ins.seen(session, user.id)
            await self._join(session, invitation, user.id, By("user", user.id, by.address))
        return made

    async def _find(self, secret: str) -> InvitationRow:
        query = select(InvitationRow).where(InvitationRow.digest == digest_of(secret), *_waiting())
        async with self._database.transaction(_ACCOUNT) as session:
            row = await session.scalar(query)
        if row is None:
            raise InvitationNotFound
        return row

    async def _join(self, session: AsyncSession, invitation: InvitationRow, user_id: str, by: By) -> None:
        """From here on the transaction is the tenant's."""
        tenant_id = invitation.tenant_id
        await act_for(session, tenant_id)
        taken = _void(tenant_id).where(InvitationRow.id == invitation.id).values(accepted_at=utcnow())
        if await session.scalar(taken.returning(InvitationRow.id)) is None:
            raise InvitationNotFound
        if await session.get(MembershipRow, (tenant_id, user_id)) is not None:
            raise Conflict("You are a member of this tenant already.")
        session.add(MembershipRow(tenant_id=tenant_id, user_id=user_id, role=invitation.role, created_at=utcnow()))
        detail = {"role": invitation.role, "invitation": invitation.id}
        await self._recorder.record(session, tenant_id, "member.join", by=by, target=user_id, detail=detail)


def _waiting() -> tuple[ColumnElement[bool], ...]:
    """What is so of an invitation that can be taken up."""
    return (
        InvitationRow.accepted_at.is_(None),
        InvitationRow.revoked_at.is_(None),
        InvitationRow.expires_at > utcnow(),
    )


def _void(tenant_id: str) -> Update:
    return update(InvitationRow).where(InvitationRow.tenant_id == tenant_id, *_waiting())


async def _void_made_by(session: AsyncSession, tenant_id: str, user_id: str) -> int:
    """Make the invitations of a member that wait void; how many there were."""
    made = _void(tenant_id).where(InvitationRow.created_by == f"user:{user_id}").values(revoked_at=utcnow())
    return len((await session.scalars(made.returning(InvitationRow.id))).all())


async def _read(session: AsyncSession, tenant_id: str, user_id: str) -> tuple[MembershipRow, UserRow]:
    """A member to change; nobody changes another meanwhile, so that owners cannot remove each other at once."""
    locked = select(MembershipRow).where(MembershipRow.tenant_id == tenant_id).order_by(MembershipRow.user_id)
    rows = await session.scalars(locked.where(_owner_or(user_id)).with_for_update())
    for row in rows:
        if row.user_id == user_id:
            return row, await session.get_one(UserRow, user_id)
    raise MemberNotFound


def _owner_or(user_id: str) -> ColumnElement[bool]:
    return or_(MembershipRow.role == "owner", MembershipRow.user_id == user_id)


async def _check_change(session: AsyncSession, membership: MembershipRow, role: Role | None, maker: Role) -> None:
    """Whether a member may become `role`, or, with None, be removed."""
    _check_may(maker, cast("Role", membership.role))
    if role is not None:
        _check_may(maker, role)
    if membership.role != "owner" or role == "owner":
        return
    owners = select(func.count()).where(
        MembershipRow.tenant_id == membership.tenant_id, MembershipRow.role == "owner"
    )
    if await session.scalar(owners) == 1:
        raise Conflict("A tenant has at least one owner; make somebody else an owner first.")


def _check_may(maker: Role, role: Role) -> None:
    if not may_make(maker, role):
        raise Forbidden("Only owners make, change and remove owners; ask one.")


async def _is_member(session: AsyncSession, tenant_id: str, email: str) -> bool:
    query = (
        select(MembershipRow.user_id)
        .join(UserRow, UserRow.id == MembershipRow.user_id)
        .where(MembershipRow.tenant_id == tenant_id, UserRow.email == email)
    )
    return await session.scalar(query) is not None


def _member(membership: MembershipRow, user: UserRow) -> Member:
    return Member(user_of(user), cast("Role", membership.role), membership.created_at)


def _invitation(row: InvitationRow) -> Invitation:
    return Invitation(row.id, row.email, cast("Role", row.role), row.created_at, row.expires_at)
