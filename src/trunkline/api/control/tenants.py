"""Tenants, for those who belong to them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field

from trunkline import __version__
from trunkline.api.control.answers import Membership, Name, TenantAnswer, snippets_of
from trunkline.api.control.deps import Answer, Body, ControlDep, Slug
from trunkline.api.control.principal import USER_ONLY, Actor, allowed
from trunkline.api.control.problems import responses
from trunkline.control_errors import FieldError, ValidationFailed
from trunkline.tenants.model import Access

router = APIRouter(tags=["Tenants"])


class Deployment(Answer):
    """What this is, for whoever knows nothing of it yet."""

    version: str
    signup: Literal["open", "invite", "closed"] = Field(description="Who may sign up.")


class TenantList(Answer):
    """The tenants that a user belongs to."""

    items: list[Membership]


class TenantBody(Body):
    """What to change of a tenant."""

    name: Name | None = None
    access: Access | None = None

    def changes(self) -> dict[str, str]:
        """As `Tenants.set` takes them."""
        return {name: value for name, value in (("name", self.name), ("access", self.access)) if value is not None}


class DeleteBody(Body):
    """That the tenant is meant."""

    confirm: str = Field(max_length=63, description="The tenant's slug, once more.", examples=["acme"])


@router.get("/v1", responses=responses())
async def show_deployment(control: ControlDep) -> Deployment:
    """The version, and who may sign up."""
    return Deployment(version=__version__, signup=control.settings.signup)


@router.get("/v1/tenants", responses=responses())
async def list_tenants(control: ControlDep, actor: Annotated[Actor, USER_ONLY]) -> TenantList:
    """The tenants that one belongs to, and as what."""
    found = await control.accounts.memberships(actor.by.id)
    return TenantList(items=[Membership(tenant=slug, role=role) for slug, role in found])


@router.get("/v1/tenants/{tenant}", responses=responses())
async def show_tenant(
    tenant: Slug, control: ControlDep, actor: Annotated[Actor, allowed("tenant:read")]
) -> TenantAnswer:
    """The tenant, its limits, and where its clients connect."""
    return TenantAnswer.of(control.settings, await control.tenants.get(tenant, tenant_id=actor.tenant_id))


@router.patch("/v1/tenants/{tenant}", responses=responses())
async def change_tenant(
    tenant: Slug, body: TenantBody, control: ControlDep, actor: Annotated[Actor, allowed("tenant:update")]
) -> TenantAnswer:
    """Change the tenant's name, or who may call it."""
    changes = body.changes()
    if not changes:
        return TenantAnswer.of(control.settings, await control.tenants.get(tenant, tenant_id=actor.tenant_id))
    changed = await control.tenants.set(tenant, changes, by=actor.by, tenant_id=actor.tenant_id)
    return TenantAnswer.of(control.settings, changed)


@router.delete("/v1/tenants/{tenant}", status_code=204, responses=responses())
async def delete_tenant(
    tenant: Slug, body: DeleteBody, control: ControlDep, actor: Annotated[Actor, allowed("tenant:delete")]
) -> None:
    """Remove the tenant with its members, keys and toolsets, for good. Its audit log stays with the deployment."""
    check_confirmed(tenant, body)
    await control.tenants.delete(tenant, by=actor.by, tenant_id=actor.tenant_id)


@router.get("/v1/tenants/{tenant}/snippets", responses=responses())
async def show_snippets(
    tenant: Slug, control: ControlDep, actor: Annotated[Actor, allowed("tenant:read")]
) -> dict[str, str]:
    """By client, what to run, write or paste; `tlk_...` stands for a key."""
    return snippets_of(control.settings, tenant)


def check_confirmed(tenant: str, body: DeleteBody) -> None:
    """Refuse to delete what was not meant.

    Raises:
        ValidationFailed: another tenant is named.
    """
    if body.confirm != tenant:
        sentence = f"Deleting is for good: write {tenant} in confirm."
        raise ValidationFailed(sentence, [FieldError("/confirm", sentence)])
