"""Signing in and out, and one's own account."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from trunkline.api.control.answers import (
    Email,
    Name,
    NewPassword,
    Password,
    SessionAnswer,
    SignInAnswer,
    UserAnswer,
    session_of,
)
from trunkline.api.control.deps import Answer, Body, ControlDep
from trunkline.api.control.principal import (
    USER_ONLY,
    Actor,
    by_nobody,
    cookies_work,
    set_cookie,
    sign_in_secret,
)
from trunkline.api.control.problems import responses
from trunkline.control_errors import InsecureTransport
from trunkline.errors import Unauthorized
from trunkline.tenants.sign_ins import SignIn

router = APIRouter(tags=["Signing in"])

User = Annotated[Actor, USER_ONLY]


class SignInBody(Body):
    """Who one is."""

    email: Email
    password: Password


class TokenAnswer(Answer):
    """A token for scripts, shown this once."""

    token: str = Field(examples=["tls_Ar5b..."])
    expires_at: datetime


class SignInList(Answer):
    """Where the user is signed in."""

    items: list[SignInAnswer]


class MeBody(Body):
    """What to change of one's account."""

    name: Name | None = None


class PasswordBody(Body):
    """One's password, and the one to come."""

    current: Password
    new: NewPassword


class ResetBody(Body):
    """The secret of a password reset, and the password to come."""

    secret: str = Field(min_length=1, max_length=256, description="What stands behind the `#` of the link.")
    password: NewPassword


@router.post("/v1/sessions", status_code=201, responses=responses())
async def sign_in(body: SignInBody, request: Request, response: Response, control: ControlDep) -> SessionAnswer:
    """Sign in by cookie, for pages. Whoever changes something by cookie sends `X-CSRF-Token`, too."""
    if not cookies_work(control.settings):
        raise InsecureTransport
    secret, made = await control.accounts.sign_in(body.email, body.password, "cookie", by_nobody(request))
    response.headers["set-cookie"] = set_cookie(control.settings, "user", secret)
    return await session_of(control, made, secret)


@router.post("/v1/tokens", status_code=201, responses=responses())
async def create_token(body: SignInBody, request: Request, control: ControlDep) -> TokenAnswer:
    """Sign in by token, for scripts: send it as `Authorization: Bearer tls_...`."""
    secret, made = await control.accounts.sign_in(body.email, body.password, "token", by_nobody(request))
    return TokenAnswer(token=secret, expires_at=made.expires_at)


@router.get("/v1/sessions/current", responses=responses())
async def show_session(request: Request, response: Response, control: ControlDep, actor: User) -> SessionAnswer:
    """Who is signed in, where they belong to, and the CSRF token of a cookie, which is kept for longer by that."""
    signed_in, secret = _signed_in(actor), sign_in_secret(request)
    if signed_in.kind == "cookie":
        response.headers["set-cookie"] = set_cookie(control.settings, "user", secret)
    return await session_of(control, signed_in, secret)


@router.delete("/v1/sessions/current", status_code=204, responses=responses())
async def sign_out(response: Response, control: ControlDep, actor: User) -> None:
    """Sign out."""
    await control.accounts.sign_out(actor.by.id, actor.by, only=_signed_in(actor).id)
    response.headers["set-cookie"] = set_cookie(control.settings, "user", "")


@router.get("/v1/sessions", responses=responses())
async def list_sessions(control: ControlDep, actor: User) -> SignInList:
    """Where one is signed in."""
    found = await control.accounts.sign_ins.of_user(actor.by.id)
    current = _signed_in(actor).id
    return SignInList(
        items=[
            SignInAnswer(
                id=each.id,
                kind=each.kind,
                created_at=each.created_at,
                last_seen_at=each.last_seen_at,
                expires_at=each.expires_at,
                address=each.address,
                current=each.id == current,
            )
            for each in found
        ]
    )


@router.delete("/v1/sessions", status_code=204, responses=responses())
async def sign_out_everywhere(response: Response, control: ControlDep, actor: User) -> None:
    """Sign out everywhere, here included."""
    await control.accounts.sign_out(actor.by.id, actor.by)
    response.headers["set-cookie"] = set_cookie(control.settings, "user", "")


@router.delete("/v1/sessions/{session}", status_code=204, responses=responses())
async def end_session(
    session: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], control: ControlDep, actor: User
) -> None:
    """End another sign-in of one's own."""
    await control.accounts.sign_out(actor.by.id, actor.by, only=session)


@router.get("/v1/me", responses=responses())
async def show_me(control: ControlDep, actor: User) -> UserAnswer:
    """One's own account."""
    return UserAnswer.of(await control.accounts.user(actor.by.id))


@router.patch("/v1/me", responses=responses())
async def change_me(body: MeBody, control: ControlDep, actor: User) -> UserAnswer:
    """Change one's name."""
    if body.name is None:
        return UserAnswer.of(await control.accounts.user(actor.by.id))
    return UserAnswer.of(await control.accounts.rename(actor.by.id, body.name, actor.by))


@router.put("/v1/me/password", status_code=204, responses=responses())
async def change_password(body: PasswordBody, control: ControlDep, actor: User) -> None:
    """Change one's password; every other sign-in ends."""
    await control.accounts.change_password(_signed_in(actor), body.current, body.new, actor.by)


@router.post("/v1/password-resets/accept", status_code=204, responses=responses())
async def accept_reset(body: ResetBody, request: Request, control: ControlDep) -> None:
    """Choose a new password by the secret that an operator gave out; every sign-in ends."""
    await control.users.accept_reset(body.secret, body.password, by_nobody(request))


def _signed_in(actor: Actor) -> SignIn:
    if actor.sign_in is None:
        raise Unauthorized
    return actor.sign_in
