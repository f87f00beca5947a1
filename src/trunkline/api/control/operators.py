"""What operators do: tenants, sign-up codes, their own sign-ins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from trunkline.api.control.answers import Email, Name, NewSlug, Password, TenantAnswer
from trunkline.api.control.deps import (
    Answer,
    Body,
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
    OPERATOR_ONLY,
    Actor,
    by_nobody,
    cookies_work,
    csrf_token,
    set_cookie,
    sign_in_secret,
)
from trunkline.api.control.problems import responses
from trunkline.api.control.tenants import DeleteBody, TenantBody, check_confirmed
from trunkline.control_errors import InsecureTransport
from trunkline.errors import Unauthorized
from trunkline.tenants.operators import Operator
from trunkline.tenants.sign_ins import SignInKind

router = APIRouter(tags=["Operators"])

Operating = Annotated[Actor, OPERATOR_ONLY]
Quota = Annotated[int, Field(ge=1, le=10**12)]


class OperatorSignIn(Body):
    """Who one is; a script asks for a token, a page gets a cookie."""

    email: Email
    password: Password
    token: bool = Field(default=False, description="Answer with a token for scripts instead of a cookie.")


class OperatorAnswer(Answer):
    """Somebody who runs the platform."""

    id: str
    email: str
    name: str


class OperatorSession(Answer):
    """An operator who is signed in."""

    operator: OperatorAnswer
    csrf_token: str | None = Field(description="For `X-CSRF-Token`, with a cookie.")
    token: str | None = Field(default=None, description="Where one was asked for: shown this once.")
    expires_at: datetime


class LimitsBody(Body):
    """Limits of a tenant; null takes one back to the deployment's default."""

    rate: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    burst: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    in_flight: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    sessions: Annotated[int, Field(gt=0, le=1_000_000)] | None = None

    def changes(self) -> dict[str, str]:
        """As `Tenants.set` takes them; what was not given stays."""
        given = self.model_dump(exclude_unset=True)
        return {name: "default" if value is None else str(value) for name, value in given.items()}


class QuotasBody(Body):
    """Monthly quotas of a tenant; null takes one away."""

    monthly_calls: Quota | None = None
    monthly_calls_soft: Quota | None = None
    monthly_compute: Quota | None = Field(default=None, description="Seconds.")
    monthly_compute_soft: Quota | None = None

    def changes(self) -> dict[str, str]:
        """As `Tenants.set` takes them; what was not given stays."""
        given = self.model_dump(exclude_unset=True)
        return {name: "none" if value is None else str(value) for name, value in given.items()}


class OperatorTenantBody(TenantBody):
    """What an operator changes of a tenant."""

    limits: LimitsBody | None = None
    quotas: QuotasBody | None = None


class OperatorNewTenant(Body):
    """A tenant that nobody belongs to yet."""

    slug: NewSlug
    name: Name | None = None


class ReasonBody(Body):
    """Why, for the audit log."""

    reason: str = Field(default="", max_length=500)


class CodeBody(Body):
    """For whom a code is."""

    email: Email | None = Field(default=None, description="Nobody else can use it then.")


class CodeAnswer(Answer):
    """A code that lets somebody sign up once."""

    id: str
    email: str | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class NewCode(CodeAnswer):
    """A code, shown this once."""

    code: str = Field(examples=["tlc_Ar5b..."])


@router.post("/v1/operator/sessions", status_code=201, responses=responses())
async def operator_sign_in(
    body: OperatorSignIn, request: Request, response: Response, control: ControlDep
) -> OperatorSession:
    """Sign in as an operator."""
    if not body.token and not cookies_work(control.settings):
        raise InsecureTransport
    kind: SignInKind = "token" if body.token else "cookie"
    secret, made = await control.operators.sign_in(body.email, body.password, kind, by_nobody(request))
    if kind == "cookie":
        response.headers["set-cookie"] = set_cookie(control.settings, "operator", secret)
    return OperatorSession(
        operator=_operator(await control.operators.get(made.operator_id)),
        csrf_token=csrf_token(secret) if kind == "cookie" else None,
        token=secret if kind == "token" else None,
        expires_at=made.expires_at,
    )


@router.get("/v1/operator/sessions/current", responses=responses())
async def show_operator_session(request: Request, control: ControlDep, actor: Operating) -> OperatorSession:
    """Which operator is signed in."""
    if actor.sign_in is None:
        raise Unauthorized
    by_cookie = actor.sign_in.kind == "cookie"
    return OperatorSession(
        operator=_operator(await control.operators.get(actor.by.id)),
        csrf_token=csrf_token(sign_in_secret(request, "operator")) if by_cookie else None,
        expires_at=actor.sign_in.expires_at,
    )


@router.delete("/v1/operator/sessions/current", status_code=204, responses=responses())
async def operator_sign_out(response: Response, control: ControlDep, actor: Operating) -> None:
    """Sign out as an operator."""
    if actor.sign_in is not None:
        await control.operators.sign_out(actor.sign_in, actor.by)
    response.headers["set-cookie"] = set_cookie(control.settings, "operator", "")


@router.get("/v1/operator/tenants", responses=responses())
async def list_all_tenants(
    request: Request,
    response: Response,
    control: ControlDep,
    actor: Operating,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[TenantAnswer]:
    """All tenants, by name."""
    after = begin_of(control, actor, "all tenants", cursor)
    found = await control.tenants.page(after[1] if after else "", limit + 1)
    following = end_of(control, actor, "all tenants", found, limit, lambda item: (_EPOCH, item.slug))
    link_next(request, response, following)
    return Page(items=[TenantAnswer.of(control.settings, each) for each in found[:limit]], next=following)


@router.post("/v1/operator/tenants", status_code=201, responses=responses(409))
@once
async def create_tenant_for(body: OperatorNewTenant, control: ControlDep, actor: Operating) -> TenantAnswer:
    """Make a tenant that nobody belongs to yet; keys and invitations come from the command line."""
    return TenantAnswer.of(control.settings, await control.tenants.create(body.slug, body.name or "", by=actor.by))


@router.get("/v1/operator/tenants/{tenant}", responses=responses())
async def show_any_tenant(tenant: Slug, control: ControlDep, actor: Operating) -> TenantAnswer:
    """Any tenant."""
    return TenantAnswer.of(control.settings, await control.tenants.get(tenant))


@router.patch("/v1/operator/tenants/{tenant}", responses=responses())
async def change_any_tenant(
    tenant: Slug, body: OperatorTenantBody, control: ControlDep, actor: Operating
) -> TenantAnswer:
    """Change any tenant's name, access, limits or quotas; what is left out stays, null is the default, or none."""
    changes = body.changes()
    for part in (body.limits, body.quotas):
        changes |= part.changes() if part else {}
    if not changes:
        return TenantAnswer.of(control.settings, await control.tenants.get(tenant))
    return TenantAnswer.of(control.settings, await control.tenants.set(tenant, changes, by=actor.by))


@router.delete("/v1/operator/tenants/{tenant}", status_code=204, responses=responses())
async def delete_any_tenant(tenant: Slug, body: DeleteBody, control: ControlDep, actor: Operating) -> None:
    """Remove any tenant, for good; its audit log stays."""
    check_confirmed(tenant, body)
    await control.tenants.delete(tenant, by=actor.by)


@router.post("/v1/operator/tenants/{tenant}/suspend", responses=responses())
async def suspend_tenant(
    tenant: Slug, control: ControlDep, actor: Operating, body: ReasonBody | None = None
) -> TenantAnswer:
    """Refuse all clients of a tenant until it is resumed; its members can look and change nothing."""
    reason = body.reason if body else ""
    return TenantAnswer.of(control.settings, await control.tenants.suspend(tenant, reason=reason, by=actor.by))


@router.post("/v1/operator/tenants/{tenant}/resume", responses=responses())
async def resume_tenant(
    tenant: Slug, control: ControlDep, actor: Operating, body: ReasonBody | None = None
) -> TenantAnswer:
    """Serve the clients of a tenant again."""
    reason = body.reason if body else ""
    return TenantAnswer.of(control.settings, await control.tenants.resume(tenant, reason=reason, by=actor.by))


@router.get("/v1/operator/signup-codes", responses=responses())
async def list_signup_codes(
    request: Request,
    response: Response,
    control: ControlDep,
    actor: Operating,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[CodeAnswer]:
    """Codes that let people sign up, used ones included."""
    after = begin_of(control, actor, "signup codes", cursor)
    found = await control.operators.codes(after, limit + 1)
    following = end_of(control, actor, "signup codes", found, limit, lambda item: (item.created_at, item.id))
    link_next(request, response, following)
    return Page(items=[CodeAnswer.model_validate(each) for each in found[:limit]], next=following)


@router.post("/v1/operator/signup-codes", status_code=201, responses=responses(409))
@once
async def create_signup_code(control: ControlDep, actor: Operating, body: CodeBody | None = None) -> NewCode:
    """Make a code that lets somebody sign up once; it is shown this once."""
    code, made = await control.operators.create_code(body.email if body else None, by=actor.by)
    return NewCode(
        id=made.id,
        email=made.email,
        created_at=made.created_at,
        expires_at=made.expires_at,
        used_at=made.used_at,
        code=code,
    )


@router.delete("/v1/operator/signup-codes/{code}", status_code=204, responses=responses())
async def revoke_signup_code(code: Id, control: ControlDep, actor: Operating) -> None:
    """Make a code void."""
    await control.operators.revoke_code(code, by=actor.by)


_EPOCH = datetime.fromtimestamp(0, UTC)


def _operator(operator: Operator) -> OperatorAnswer:
    return OperatorAnswer(id=operator.id, email=operator.email, name=operator.name)
