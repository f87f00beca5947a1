"""What a tenant may use, and has used of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter
from pydantic import Field

from trunkline.api.control.answers import LimitsAnswer, QuotasAnswer
from trunkline.api.control.deps import Answer, Body, Control, ControlDep, Slug
from trunkline.api.control.operators import LimitsBody, QuotasBody
from trunkline.api.control.principal import OPERATOR_ONLY, Actor, allowed
from trunkline.api.control.problems import responses
from trunkline.errors import UsageError
from trunkline.tenants.model import Tenant
from trunkline.tenants.quotas import month_ends, month_of

router = APIRouter(tags=["Tenants"])

Reader = Annotated[Actor, allowed("limits:read")]
Operating = Annotated[Actor, OPERATOR_ONLY]


class UsedThisMonth(Answer):
    """What was used since the first of the month (UTC)."""

    calls: int = Field(description="Tool calls that have ended.", examples=[1234])
    compute_seconds: float = Field(description="Seconds that their tools ran.", examples=[56.7])
    resets_at: datetime


class LimitsAndQuotas(Answer):
    """What a tenant may use, and has used of it."""

    limits: LimitsAnswer
    quotas: QuotasAnswer
    used: UsedThisMonth

    @classmethod
    async def of(cls, control: Control, tenant: Tenant) -> Self:
        """As it is now."""
        now = control.redis.clock.now()
        used = await control.quotas.used(tenant.id, month_of(now))
        return cls(
            limits=LimitsAnswer.model_validate(tenant.limits),
            quotas=QuotasAnswer.of(tenant.quotas),
            used=UsedThisMonth(
                calls=used.calls, compute_seconds=used.compute_us / 1_000_000, resets_at=month_ends(now)
            ),
        )


class LimitsAndQuotasBody(Body):
    """What to set; what is left out stays."""

    limits: LimitsBody | None = None
    quotas: QuotasBody | None = None

    def changes(self) -> dict[str, str]:
        """As `Tenants.set` takes them."""
        changes = {**(self.limits.changes() if self.limits else {}), **(self.quotas.changes() if self.quotas else {})}
        if not changes:
            raise UsageError("There is nothing to set; name a limit or a quota.")
        return changes


@router.get("/v1/tenants/{tenant}/limits", responses=responses())
async def show_limits(tenant: Slug, control: ControlDep, actor: Reader) -> LimitsAndQuotas:
    """What the tenant may use, and has used this month."""
    return await LimitsAndQuotas.of(control, await control.tenants.get(tenant, tenant_id=actor.tenant_id))


@router.put("/v1/tenants/{tenant}/limits", responses=responses())
async def set_limits(
    tenant: Slug, body: LimitsAndQuotasBody, control: ControlDep, actor: Operating
) -> LimitsAndQuotas:
    """Set what a tenant may use; only operators do."""
    return await LimitsAndQuotas.of(control, await control.tenants.set(tenant, body.changes(), by=actor.by))
