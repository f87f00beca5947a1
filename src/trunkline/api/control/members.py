"""A tenant's members and invitations."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from trunkline.api.control.answers import Email, Name, Password, SessionAnswer, UserAnswer, session_of
from trunkline.api.control.deps import (
    Answer,
    Body,
    Control,
    ControlDep,
    Cursor,
    Id,
    Limit,
    Page,
    Slug,
    begin_of,
    end_of,
    link_next,
)
from trunkline.api.control.idempotency import once
from trunkline.api.control.principal import (
    Actor,
    allowed,
    allowed_or_self,
    by_nobody,
    cookies_work,
    set_cookie,
)
from trunkline.api.control.problems import responses
from trunkline.errors import Forbidden, Unavailable
from trunkline.tenants.announce import Announcer
from trunkline.tenants.members import Invitation, Member
from trunkline.tenants.roles import Role

router = APIRouter(tags=["Members"])

Reader = Annotated[Actor, allowed("members:read")]
Manager = Annotated[Actor, allowed("members:manage")]


class MemberAnswer(Answer):
    """A member of a tenant."""

    user: UserAnswer
    role: Role
    created_at: datetime = Field(description="When they joined.")


class RoleBody(Body):
    """What a member is to be."""

    role: Role


class InvitationBody(Body):
    """Whom to invite, and as what."""

    email: Email
    role: Role


class InvitationAnswer(Answer):
    """An invitation that waits to be taken up."""

    id: str
    email: str
    role: Role
    created_at: datetime
    expires_at: datetime


class NewInvitation(InvitationAnswer):
    """An invitation that was made just now."""

    mailed: bool = Field(description="Whether it is on its way by mail.")
    link: str | None = Field(
        default=None,
        description="Where no mail went: what to give to whoever is invited, shown this once.",
        examples=["https://trunkline.example/invite#tli_Ar5b..."],
    )


class AcceptBody(Body):
    """The secret of an invitation, and who takes it up."""

    secret: str = Field(min_length=1, max_length=256, description="What stands behind the `#` of the link.")
    name: Name | None = Field(default=None, description="For an account that is made now.")
    password: Password = Field(description="That of the account that the address has, or the new one's.")


@router.get("/v1/tenants/{tenant}/members", responses=responses())
async def list_members(
    tenant: Slug,
    request: Request,
    response: Response,
    control: ControlDep,
    actor: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[MemberAnswer]:
    """Members, in the order of their joining."""
    after = begin_of(control, actor, "members", cursor)
    found = await control.members.page(actor.tenant_id, after, limit + 1)
    following = end_of(control, actor, "members", found, limit, lambda item: (item.created_at, item.user.id))
    link_next(request, response, following)
    return Page(items=[_member(each) for each in found[:limit]], next=following)


@router.patch("/v1/tenants/{tenant}/members/{user}", responses=responses(409))
async def change_member(tenant: Slug, user: Id, body: RoleBody, control: ControlDep, actor: Manager) -> MemberAnswer:
    """Give a member another role. Only owners make and unmake owners, and one stays."""
    return _member(await control.members.set_role(actor.tenant_id, user, body.role, _role(actor), actor.by))


@router.delete("/v1/tenants/{tenant}/members/{user}", status_code=204, responses=responses(409))
async def remove_member(
    tenant: Slug,
    user: Id,
    control: ControlDep,
    actor: Annotated[Actor, allowed_or_self("members:manage")],
    revoke_keys: Annotated[bool, Query(description="Whether the keys that they issued are revoked, too.")] = False,
) -> None:
    """Take a member out of the tenant, or leave it oneself. An owner stays.

    Invitations that they made and nobody has taken up are void. Keys that they issued go on, unless they are to be
    revoked with `revoke_keys`; which these are is in `created_by` of the keys.
    """
    revoked = await control.members.remove(actor.tenant_id, user, _role(actor), actor.by, revoke_keys=revoke_keys)
    if revoked:
        await Announcer(control.redis).keys_revoked(revoked)


@router.get("/v1/tenants/{tenant}/invitations", responses=responses())
async def list_invitations(
    tenant: Slug,
    request: Request,
    response: Response,
    control: ControlDep,
    actor: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[InvitationAnswer]:
    """Invitations that wait to be taken up."""
    after = begin_of(control, actor, "invitations", cursor)
    found = await control.members.invitations(actor.tenant_id, after, limit + 1)
    following = end_of(control, actor, "invitations", found, limit, lambda item: (item.created_at, item.id))
    link_next(request, response, following)
    return Page(items=[InvitationAnswer.model_validate(each) for each in found[:limit]], next=following)


@router.post("/v1/tenants/{tenant}/invitations", status_code=201, responses=responses(409))
@once
async def invite(tenant: Slug, body: InvitationBody, control: ControlDep, actor: Manager) -> NewInvitation:
    """Invite somebody, by mail where this deployment sends mail, else by a link to give to them.

    An invitation that the address had before is void.
    """
    secret, made = await control.members.invite(actor.tenant_id, body.email, body.role, _role(actor), actor.by)
    mailed = await _mail(control, tenant, secret, made)
    return NewInvitation(
        id=made.id,
        email=made.email,
        role=made.role,
        created_at=made.created_at,
        expires_at=made.expires_at,
        mailed=mailed,
        link=None if mailed else _link(control, secret),
    )


@router.delete("/v1/tenants/{tenant}/invitations/{invitation}", status_code=204, responses=responses())
async def revoke_invitation(tenant: Slug, invitation: Id, control: ControlDep, actor: Manager) -> None:
    """Make an invitation void."""
    await control.members.revoke_invitation(actor.tenant_id, invitation, actor.by)


@router.post("/v1/invitations/accept", status_code=201, responses=responses(409))
async def accept_invitation(
    body: AcceptBody, request: Request, response: Response, control: ControlDep
) -> SessionAnswer:
    """Take an invitation up, with the account that its address has, or with a new one. Signs in by cookie."""
    secret, sign_in = await control.members.accept(body.secret, body.name or "", body.password, by_nobody(request))
    if cookies_work(control.settings):
        response.headers["set-cookie"] = set_cookie(control.settings, "user", secret)
    return await session_of(control, sign_in, secret)


def _member(member: Member) -> MemberAnswer:
    return MemberAnswer(user=UserAnswer.of(member.user), role=member.role, created_at=member.created_at)


def _role(actor: Actor) -> Role:
    if actor.role is None:
        raise Forbidden("Members are managed by members, not by API keys.")
    return actor.role


def _link(control: Control, secret: str) -> str:
    """The secret is behind the #, which browsers do not send: it gets into no log on the way."""
    return f"{control.settings.public_url}/invite#{secret}"


async def _mail(control: Control, tenant: str, secret: str, invitation: Invitation) -> bool:
    if control.mailer is None:
        return False
    text = _MAIL.format(
        tenant=tenant,
        role=invitation.role,
        url=control.settings.public_url,
        link=_link(control, secret),
        secret=secret,
        until=f"{invitation.expires_at:%Y-%m-%d %H:%M} UTC",
    )
    with contextlib.suppress(Unavailable):  # then whoever invites gets the link
        await control.mailer.send(invitation.email, f"Invitation to {tenant}", text)
        return True
    return False


_MAIL = """\
You are invited to the tenant {tenant} as {role}, until {until}.

  {link}

Or from a terminal, with a password of 12 characters or more, or that of the account you have already:

  curl {url}/v1/invitations/accept -H 'Content-Type: application/json' \\
    -d '{{"secret": "{secret}", "name": "Your Name", "password": "..."}}'

Whoever has this mail can use it, once. If you did not expect it, ignore it.
"""
