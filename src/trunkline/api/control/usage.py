"""What tenants have used."""

from __future__ import annotations

import csv
import hmac
import io
import time
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from trunkline.api.control.deps import Answer, Control, ControlDep, Slug
from trunkline.api.control.principal import OPERATOR_ONLY, Actor, allowed, operator_actor
from trunkline.api.control.problems import responses
from trunkline.audit.entries import cell
from trunkline.audit.usage import BY, UsageRow, UsageTable, Used
from trunkline.control_errors import FieldError, ValidationFailed
from trunkline.db import utcnow

router = APIRouter(tags=["Usage"])

Reading = Annotated[Actor, allowed("usage:read")]
Operating = Annotated[Actor, OPERATOR_ONLY]

_LONGEST: Final = timedelta(days=366)
_CSV: Final = "text/csv"
_KEPT: Final = 15.0
"""Seconds for which the metrics of all tenants are kept."""
_SHOWN: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {_CSV: {"schema": {"type": "string"}}}}}


Day = Annotated[date, Field(ge=date(1970, 1, 1), lt=date(2200, 1, 1))]


class UsageQuery(BaseModel):
    """Which usage is wanted, and how it is told apart."""

    model_config = ConfigDict(extra="forbid")

    first: Day | None = Field(None, alias="from", description="The first day, UTC; 30 days back if left out.")
    last: Day | None = Field(None, alias="to", description="The last day, UTC; today if left out.")
    by: str = Field(
        "day,key,tool", pattern="^(day|key|tool)?(,(day|key|tool)){0,2}$", description="What is told apart.",
        examples=["day", "key,tool"],
    )  # fmt: skip
    format: str = Field("json", pattern="^(json|csv)$", description="`json` or `csv`; `Accept: text/csv` does too.")


class UsageAnswer(Answer):
    """What was used; day, key and tool are null where they are not told apart."""

    day: date | None
    key: str | None = Field(description="Empty for calls without a key.")
    tool: str | None
    calls: int
    errors: int = Field(description="Calls whose outcome is not `ok`.")
    compute_ms: float = Field(description="Milliseconds that tools ran.")
    bytes_in: int
    bytes_out: int


class UsageTotal(Answer):
    """The sum of all rows."""

    calls: int
    errors: int
    compute_ms: float
    bytes_in: int
    bytes_out: int


class UsageReport(Answer):
    """What a tenant has used: the sums of its audit entries, to the last one."""

    items: list[UsageAnswer]
    total: UsageTotal


@router.get("/v1/tenants/{tenant}/usage", response_model=UsageReport, responses=responses() | _SHOWN)
async def show_usage(
    tenant: Slug,
    wanted: Annotated[UsageQuery, Query()],
    control: ControlDep,
    who: Reading,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> UsageReport | Response:
    """What the tenant has used, by day, key and tool; as JSON or CSV."""
    return await _answer(control, who.tenant_id, tenant, wanted, accept)


@router.get("/v1/operator/tenants/{tenant}/usage", response_model=UsageReport, responses=responses() | _SHOWN)
async def show_usage_of_any(
    tenant: Slug,
    wanted: Annotated[UsageQuery, Query()],
    control: ControlDep,
    who: Operating,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> UsageReport | Response:
    """What any tenant has used."""
    found = await control.tenants.get(tenant)
    return await _answer(control, found.id, tenant, wanted, accept)


async def metrics_reader(request: Request) -> None:
    """Whoever scrapes with METRICS_KEY, or an operator.

    Raises:
        Unauthorized, Forbidden: anybody else.
    """
    control: Control = request.app.state.control
    wanted = control.settings.metrics_key.get_secret_value()
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not wanted or not hmac.compare_digest(given.encode(), wanted.encode()):
        await operator_actor(request)


metrics_reader.permission = "operator"  # type: ignore[attr-defined]


@router.get(
    "/v1/operator/metrics",
    dependencies=[Depends(metrics_reader)],
    response_class=PlainTextResponse,
    responses=responses(),
)
async def show_tenant_metrics(request: Request, control: ControlDep) -> Response:
    """What each tenant has used so far, in Prometheus' text format; kept for 15 s."""
    kept: tuple[float, str] = getattr(request.app.state, "tenant_metrics", (-_KEPT, ""))
    if time.monotonic() - kept[0] > _KEPT:
        slugs = {tenant.id: tenant.slug for tenant in await control.tenants.list()}
        totals = await control.usage.totals()
        kept = (time.monotonic(), as_metrics({slugs.get(each, each): used for each, used in totals.items()}))
        request.app.state.tenant_metrics = kept
    return Response(kept[1], media_type=CONTENT_TYPE_LATEST)


_METRICS: Final = {
    "calls": "Tool calls.",
    "errors": "Tool calls whose outcome is not ok.",
    "compute_seconds": "Seconds that tools ran.",
    "bytes_in": "Bytes of tool calls.",
    "bytes_out": "Bytes of their answers.",
}


def as_metrics(totals: Mapping[str, Used]) -> str:
    """Sums by tenant, in the text format that Prometheus reads."""
    lines: list[str] = []
    for place, (name, text) in enumerate(_METRICS.items()):
        full = f"trunkline_tenant_{name}_total"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} counter"]
        for tenant, used in sorted(totals.items()):
            value = used.compute_us / 1_000_000 if name == "compute_seconds" else used[place]
            lines.append(f'{full}{{tenant="{tenant}"}} {value}')
    return "\n".join([*lines, ""])


async def _answer(
    control: Control, tenant_id: str, slug: str, wanted: UsageQuery, accept: str
) -> UsageReport | Response:
    last = wanted.last or utcnow().date()
    first = wanted.first or last - timedelta(days=29)
    if not timedelta(0) <= last - first <= _LONGEST:
        sentence = "From `from` to `to` are 0 to 366 days."
        raise ValidationFailed(sentence, [FieldError("query/from", sentence)])
    table = await control.usage.read(tenant_id, first, last, frozenset(wanted.by.split(",")) & frozenset(BY))
    if wanted.format == "csv" or accept.startswith(_CSV):
        headers = {"content-disposition": f'attachment; filename="{slug}-usage.csv"'}
        return Response(as_csv(table), media_type=f"{_CSV}; charset=utf-8", headers=headers)
    return UsageReport(items=[_row(row) for row in table.rows], total=UsageTotal(**_used(table.total)))


def as_csv(table: UsageTable) -> str:
    """The rows under the names that they have in JSON."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(UsageAnswer.model_fields)
    for row in table.rows:
        writer.writerow([cell(value) for value in _row(row).model_dump().values()])
    return written.getvalue()


def _row(row: UsageRow) -> UsageAnswer:
    return UsageAnswer(day=row.day, key=row.key_id, tool=row.tool, **_used(row.used))


def _used(used: Used) -> dict[str, Any]:
    return {
        "calls": used.calls,
        "errors": used.errors,
        "compute_ms": used.compute_us / 1000,
        "bytes_in": used.bytes_in,
        "bytes_out": used.bytes_out,
    }
