"""A tenant's audit log: pages, one entry, how far it has come, as it grows, and as a copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Header, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from trunkline.api.control.deps import Answer, Control, ControlDep, Id, Page, Slug, link_next
from trunkline.api.control.principal import OPERATOR_ONLY, Actor, allowed, operator_actor, tenant_actor
from trunkline.api.control.problems import responses
from trunkline.audit import query
from trunkline.audit.by import PLATFORM
from trunkline.audit.chain import Checkpoint, genesis, time_of
from trunkline.audit.entries import to_json
from trunkline.audit.export import TYPES, Format, Taking
from trunkline.audit.signing import CheckpointSigner
from trunkline.control_errors import CursorNotFound
from trunkline.errors import NotFound, TrunklineError

router = APIRouter(tags=["Audit log"])

Reading = Annotated[Actor, allowed("audit:read")]
Operating = Annotated[Actor, OPERATOR_ONLY]

_LOOK_EVERY: Final = 1.0
"""Seconds between looks whether whoever follows a log still may."""
_SSE: Final = "text/event-stream"
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}

Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Time = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))]


class AuditBounds(BaseModel):
    """A span of time."""

    model_config = ConfigDict(extra="forbid")

    since: Time | None = Field(None, alias="from", description="Not before this, RFC 3339.")
    until: Time | None = Field(None, alias="to", description="Before this, RFC 3339.")


class AuditQuery(AuditBounds):
    """Which entries are wanted."""

    action: Text | None = Field(None, description="A name, or the beginning of names: `key.*`.", examples=["key.*"])
    actor: Text | None = Field(None, description="Id of the key, user or operator.")
    target: Text | None = Field(None, description="A tool's name, a key's id, or what else it was done to.")
    outcome: Text | None = Field(None, examples=["ok"])
    session: Text | None = Field(None, description="Id of the MCP session.")
    limit: int = Field(50, ge=1, le=200, description="Items on a page.")
    cursor: str | None = Field(
        None, max_length=1_024, description="`next` of the page before; leave it out for the first one."
    )

    @property
    def filters(self) -> query.Filters:
        """As the log is asked."""
        return query.Filters(self.action, self.actor, self.target, self.outcome, self.session, self.since, self.until)


class ExportQuery(AuditBounds):
    """What of the log is copied, by when it was recorded, and how."""

    format: Format = Field("jsonl", description="`jsonl` can be verified; `csv` is for spreadsheets.")


class AuditEntry(Answer):
    """What happened, and its place in the tenant's chain (docs/audit.md)."""

    tenant: str
    seq: int = Field(description="1 for the first entry; none is missing.")
    recorded_at: datetime
    id: str
    occurred_at: datetime
    actor_kind: str = Field(description="`operator`, `user`, `key`, `public` or `system`.")
    actor: str | None
    address: str | None = Field(description="From where, for changes by the control plane.")
    action: str = Field(examples=["tools/call"])
    target: str | None
    session_id: str | None
    outcome: str = Field(examples=["ok"])
    duration_ms: float | None
    compute_us: int
    bytes_in: int
    bytes_out: int
    arguments_hash: str | None = Field(description="SHA-256 of a call's arguments, which themselves are not kept.")
    api_pod: str | None
    worker_pod: str | None
    request_id: str | None
    detail: dict[str, Any]
    hash: str = Field(description="SHA-256 over the hash of the entry before and this one.")


class AuditCheckpoint(Answer):
    """What was signed of a chain."""

    seq: int
    hash: str
    recorded_at: datetime
    kind: str
    kid: str
    signature: str = Field(description="Ed25519, in hex.")


class AuditHead(Answer):
    """How far the chain has come: keep it elsewhere, and nobody can take back what is before it."""

    seq: int
    hash: str
    recorded_at: datetime | None = Field(description="When the last entry was recorded; null without entries.")
    checkpoint: AuditCheckpoint | None = Field(description="What was last signed.")
    signer: str = Field(description="The public key that checkpoints are signed with now, in hex.")


@router.get("/v1/tenants/{tenant}/audit", responses=responses())
async def list_audit(
    tenant: Slug,
    wanted: Annotated[AuditQuery, Query()],
    request: Request,
    response: Response,
    control: ControlDep,
    who: Reading,
) -> Page[AuditEntry]:
    """A tenant's log, newest first. A page may be short, or empty, and still have a next one."""
    return await _page(control, who, who.tenant_id, wanted, request, response)


@router.get("/v1/tenants/{tenant}/audit/head", responses=responses())
async def show_audit_head(tenant: Slug, control: ControlDep, who: Reading) -> AuditHead:
    """How far the chain has come."""
    signer = CheckpointSigner(control.settings.root).public.hex()
    found = await query.standing(control.database, who.tenant_id)
    if found is None:
        start = genesis(who.tenant_id).hex()
        return AuditHead(seq=0, hash=start, recorded_at=None, checkpoint=None, signer=signer)
    head = found.head
    return AuditHead(
        seq=head.seq,
        hash=head.hash.hex(),
        recorded_at=time_of(head.recorded_us),
        checkpoint=_checkpoint(found.checkpoint),
        signer=signer,
    )


@router.get(
    "/v1/tenants/{tenant}/audit/tail",
    response_class=StreamingResponse,
    responses=responses() | {200: {"description": "Entries as events of SSE.", "content": {_SSE: {}}}},
)
async def follow_audit(
    tenant: Slug,
    request: Request,
    control: ControlDep,
    who: Reading,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$", description="The last seen `seq`.")] = None,
) -> Response:
    """A tenant's log as it grows, as server-sent events: `id` is the entry's `seq`, with which it resumes."""
    control.tail.check(who.tenant_id)
    after = None if last_event_id is None else int(last_event_id)
    return StreamingResponse(_follow(control, request, tenant, who, after), media_type=_SSE, headers=_HEADERS)


@router.get(
    "/v1/tenants/{tenant}/audit/export",
    response_class=StreamingResponse,
    responses=responses() | {200: {"description": "The copy.", "content": {each: {} for each in TYPES.values()}}},
)
async def export_audit(
    tenant: Slug, wanted: Annotated[ExportQuery, Query()], request: Request, control: ControlDep, who: Reading
) -> Response:
    """A copy of the log, oldest first, as a stream; of a part, by when it was recorded."""
    return await _export(control, who, (who.tenant_id, tenant), wanted, partial(_still_may, request, tenant, who))


@router.get("/v1/tenants/{tenant}/audit/{entry}", responses=responses())
async def show_audit_entry(tenant: Slug, entry: Id, control: ControlDep, who: Reading) -> AuditEntry:
    """One entry, by the id of what happened; of a tool call that is the id of the call."""
    found = await query.find(control.database, who.tenant_id, entry)
    if found is None:
        raise NotFound("There is no such entry.")
    return AuditEntry(**to_json(found))


@router.get("/v1/operator/tenants/{tenant}/audit", responses=responses())
async def list_audit_of_any(
    tenant: Slug,
    wanted: Annotated[AuditQuery, Query()],
    request: Request,
    response: Response,
    control: ControlDep,
    who: Operating,
) -> Page[AuditEntry]:
    """Any tenant's log, newest first."""
    found = await control.tenants.get(tenant)
    return await _page(control, who, found.id, wanted, request, response)


@router.get(
    "/v1/operator/tenants/{tenant}/audit/export",
    response_class=StreamingResponse,
    responses=responses() | {200: {"description": "The copy.", "content": {each: {} for each in TYPES.values()}}},
)
async def export_audit_of_any(
    tenant: Slug, wanted: Annotated[ExportQuery, Query()], request: Request, control: ControlDep, who: Operating
) -> Response:
    """A copy of any tenant's log; that it was taken is in the log."""
    found = await control.tenants.get(tenant)
    return await _export(control, who, (found.id, tenant), wanted, partial(_still_operator, request, who))


@router.get("/v1/operator/audit", responses=responses())
async def list_audit_of_platform(
    wanted: Annotated[AuditQuery, Query()], request: Request, response: Response, control: ControlDep, who: Operating
) -> Page[AuditEntry]:
    """What is no tenant's: operators, signing keys, sign-ins; newest first."""
    return await _page(control, who, PLATFORM, wanted, request, response)


async def _page(
    control: Control, who: Actor, tenant_id: str, wanted: AuditQuery, request: Request, response: Response
) -> Page[AuditEntry]:
    route, filters = f"audit {tenant_id}", wanted.filters
    before: int | None = None
    if wanted.cursor is not None:
        position = control.cursors.open(who, route, wanted.cursor)
        if position.get("filters") != filters.digest:
            raise CursorNotFound
        before = int(position["seq"])
    found = await query.page(control.database, tenant_id, filters, before, wanted.limit)
    following: str | None = None
    if found.next is not None:
        following = control.cursors.seal(who, route, {"seq": found.next, "filters": filters.digest})
    link_next(request, response, following)
    return Page(items=[AuditEntry(**to_json(each)) for each in found.entries], next=following)


class _Copy(StreamingResponse):
    """A copy that is taken: however its answer ends, another one may begin."""

    def __init__(self, taking: Taking, parts: AsyncIterator[bytes], **how: Any) -> None:
        super().__init__(parts, **how)
        self._taking = taking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.body_iterator):  # type: ignore[type-var]
                await super().__call__(scope, receive, send)
        finally:
            self._taking.release()


async def _export(
    control: Control,
    who: Actor,
    of: tuple[str, str],
    wanted: ExportQuery,
    may: Callable[[], Awaitable[bool]],
) -> Response:
    tenant_id, slug = of
    bounds = {"from": wanted.since, "to": wanted.until}
    said = {name: time.isoformat() for name, time in bounds.items() if time is not None}
    taking = await control.exports.begin(tenant_id, who.by, {"format": wanted.format, **said}, may)
    take = control.exports.csv if wanted.format == "csv" else control.exports.jsonl
    name = f"{slug}-audit.{wanted.format}"
    return _Copy(
        taking,
        take(tenant_id, wanted.since, wanted.until, taking),
        media_type=TYPES[wanted.format],
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


async def _follow(
    control: Control, request: Request, slug: str, who: Actor, after: int | None
) -> AsyncIterator[bytes]:
    """Events for as long as the caller may read them; looked at each second, as streams of clients are."""
    yield b"retry: 1000\n\n"
    clock = asyncio.get_running_loop().time
    async with aclosing(control.tail.entries(who.tenant_id, after)) as entries:  # type: ignore[type-var]
        coming: asyncio.Task[Any] | None = None
        looked = clock()
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(entries, False))
                await asyncio.wait({coming}, timeout=_LOOK_EVERY)
                if clock() - looked >= _LOOK_EVERY:
                    looked = clock()
                    if not await _still_may(request, slug, who):
                        return
                if not coming.done():
                    continue
                entry, coming = coming.result(), None
                if entry is False:
                    return
                if entry is None:
                    yield b": \n\n"
                else:
                    yield b"id: %d\nevent: entry\ndata: %b\n\n" % (entry.seq, orjson.dumps(to_json(entry)))
        except TrunklineError:  # Postgres is away: the client resumes where it was
            return
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


async def _still_may(request: Request, slug: str, who: Actor) -> bool:
    try:
        now = await tenant_actor(request, slug)
        now.require("audit:read")
    except TrunklineError:
        return False
    return now.principal == who.principal


async def _still_operator(request: Request, who: Actor) -> bool:
    try:
        now = await operator_actor(request)
    except TrunklineError:
        return False
    return now.principal == who.principal


def _checkpoint(checkpoint: Checkpoint | None) -> AuditCheckpoint | None:
    if checkpoint is None:
        return None
    return AuditCheckpoint(
        seq=checkpoint.seq,
        hash=checkpoint.hash.hex(),
        recorded_at=time_of(checkpoint.recorded_us),
        kind=checkpoint.kind,
        kid=checkpoint.kid,
        signature=checkpoint.signature.hex(),
    )
