"""Signing up: a tenant of one's own, its owner, and its first key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from trunkline.api.control.answers import Email, FoundedAnswer, Name, NewPassword, NewSlug, UserAnswer
from trunkline.api.control.deps import Body, ControlDep
from trunkline.api.control.idempotency import once
from trunkline.api.control.principal import USER_ONLY, Actor, by_nobody, cookies_work, set_cookie
from trunkline.api.control.problems import responses
from trunkline.tenants.accounts import SignUp

router = APIRouter(tags=["Signing up"])


class SignUpBody(Body):
    """A person, and the tenant that they want."""

    slug: NewSlug
    name: Name | None = Field(default=None, description="For people; the slug where it is left out.")
    email: Email
    password: NewPassword
    code: str | None = Field(default=None, max_length=256, description="Where signing up needs one.")


class SignedUpAnswer(FoundedAnswer):
    """A new tenant with its owner and its first key, and how to call with it."""

    user: UserAnswer


class NewTenant(Body):
    """A further tenant."""

    slug: NewSlug
    name: Name | None = Field(default=None, description="For people; the slug where it is left out.")


@router.post("/v1/signup", status_code=201, responses=responses(409))
@once
async def sign_up(body: SignUpBody, request: Request, response: Response, control: ControlDep) -> SignedUpAnswer:
    """Make a tenant, its owner and its first key; the key is shown this once. Signs in by cookie, too."""
    wanted = SignUp(body.slug, body.email, body.password, body.name or "", body.code or "")
    made = await control.accounts.sign_up(wanted, by_nobody(request))
    if cookies_work(control.settings):
        response.headers["set-cookie"] = set_cookie(control.settings, "user", made.secret)
    response.headers["location"] = f"/v1/tenants/{body.slug}"
    values = FoundedAnswer.values(control.settings, made.founded)
    return SignedUpAnswer.model_validate({**values, "user": UserAnswer.of(made.user)})


@router.post("/v1/tenants", status_code=201, responses=responses(409))
@once
async def create_tenant(
    body: NewTenant, response: Response, control: ControlDep, actor: Annotated[Actor, USER_ONLY]
) -> FoundedAnswer:
    """Make a further tenant of one's own, where signing up is open; its first key is shown this once."""
    made = await control.accounts.create_tenant(actor.by.id, body.slug, body.name or "", actor.by)
    response.headers["location"] = f"/v1/tenants/{body.slug}"
    return FoundedAnswer.model_validate(FoundedAnswer.values(control.settings, made))
