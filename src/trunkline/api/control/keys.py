"""API keys of a tenant: issued, listed, renamed, rotated, revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Query, status
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from trunkline.api.control.answers import snippets_of
from trunkline.api.control.deps import (
    Answer,
    Body,
    Control,
    ControlDep,
    Cursor,
    Limit,
    Page,
    Slug,
    begin_of,
    end_of,
    link_next,
)
from trunkline.api.control.idempotency import once
from trunkline.api.control.principal import Actor, allowed
from trunkline.api.control.problems import responses
from trunkline.errors import Forbidden, UsageError
from trunkline.tenants.key_options import DEFAULT_LIFETIME, KeyChanges, Wanted, parse_duration
from trunkline.tenants.key_record import KeyRecord
from trunkline.tenants.limits import LEAST_RATE, KeyLimits

router = APIRouter(tags=["Keys"])

_ROUTE = "keys"

ReadKeys = Annotated[Actor, allowed("keys:read")]
ManageKeys = Annotated[Actor, allowed("keys:manage")]
KeyId = Annotated[str, Path(description="The key's id, `key_...`.", max_length=64)]
Duration = Annotated[
    str, Field(pattern=r"^\d{1,6}[smhdw]$", description="A number and s, m, h, d or w.", examples=["30d"])
]
Texts = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Quota = Annotated[int, Field(ge=1, le=10**12)]


class Limits(Body):
    """What one key may use, beside what its tenant may; what is left out has no bound of its own."""

    rate: Annotated[float, Field(ge=LEAST_RATE, le=1_000_000)] | None = Field(
        None, description="Messages a second; one a day at least."
    )
    burst: Count | None = Field(None, description="Messages at once; as many as come in a second unless given.")
    in_flight: Count | None = Field(None, description="Tool calls that are not answered.")
    monthly_calls: Quota | None = Field(None, description="Tool calls in a month (UTC); beyond it 429.")
    monthly_calls_soft: Quota | None = Field(None, description="Beyond it answers say so, and one event is recorded.")
    monthly_compute: Quota | None = Field(None, description="Seconds that its tools run in a month.")
    monthly_compute_soft: Quota | None = None
    sessions: Count | None = Field(None, description="Sessions that live; a call without a session has none.")

    def read(self) -> KeyLimits:
        """As the platform has them."""
        return KeyLimits(
            self.rate,
            self.burst,
            self.in_flight,
            self.monthly_calls,
            self.monthly_calls_soft,
            self.monthly_compute,
            self.monthly_compute_soft,
            self.sessions,
        )

    @classmethod
    def of(cls, limits: KeyLimits) -> Self:
        """As the API tells them, those of keys from before there was a bound on them too."""
        rate, burst, in_flight, calls, calls_soft, compute, compute_soft, sessions = limits
        return cls.model_construct(
            rate=rate,
            burst=burst,
            in_flight=in_flight,
            monthly_calls=calls,
            monthly_calls_soft=calls_soft,
            monthly_compute=compute,
            monthly_compute_soft=compute_soft,
            sessions=sessions,
        )


class Key(Answer):
    """What is known of an API key; the key itself is shown once, when it is issued."""

    id: str = Field(examples=["key_01a20489366d755ebb6910193acaf9f6"])
    name: str
    scopes: list[str] = Field(examples=[["mcp:call", "mcp:read"]])
    tools: list[str] = Field(description="Patterns of the tools that it may call.", examples=[["add", "files_*"]])
    addresses: list[str] = Field(description="Ranges it may be used from; everywhere where there are none.")
    limits: Limits | None
    created_at: datetime
    created_by: str = Field(description="Who issued it, as `user:<id>`, `key:<id>` or `operator:<id>`.")
    expires_at: datetime
    revoked_at: datetime | None = Field(
        description="From when on it is refused; in the future while a rotation overlaps."
    )
    last_used_at: datetime | None = Field(description="To about half a minute.")
    replaced_by: str | None = Field(description="The key that a rotation made.")
    state: Literal["active", "ending", "revoked", "expired"]

    @classmethod
    def of(cls, record: KeyRecord) -> Self:
        """As the API tells it."""
        return cls(
            id=record.id,
            name=record.name,
            scopes=list(record.scopes),
            tools=list(record.tools),
            addresses=list(record.addresses),
            limits=None if record.limits is None else Limits.of(record.limits),
            created_at=record.created_at,
            created_by=record.created_by,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
            last_used_at=record.last_used_at,
            replaced_by=record.replaced_by,
            state=record.state(datetime.now(UTC)),
        )


class NewKey(Answer):
    """A key, shown this once."""

    key: Key
    secret: str = Field(description="Send it as `Authorization: Bearer`. It is stored nowhere.", examples=["tlk_..."])
    snippets: dict[str, str] = Field(description="What to tell common clients, by client.")


class NewKeyRequest(Body):
    """What a new key is to be; what is left out is not narrowed."""

    name: str = Field("", max_length=200, examples=["ci"])
    scopes: Texts = Field([], description="None: those of the message path.", examples=[["mcp:call", "mcp:read"]])
    tools: Texts = Field([], description="None: every tool. `*` stands for any characters, `?` for one.")
    addresses: Texts = Field(
        [], description="Ranges in CIDR notation. None: everywhere.", examples=[["192.0.2.0/24"]]
    )
    expires_in: Duration | None = Field(None, description="Lifetime; 90d unless said otherwise.")
    expires_at: datetime | None = Field(None, description="Or the time (RFC 3339, with its zone) at which it ends.")
    limits: Limits | None = None

    def lifetime(self) -> timedelta:
        """For how long the key is to be good."""
        if self.expires_in is not None and self.expires_at is not None:
            raise UsageError("Give expires_in or expires_at, not both.")
        if self.expires_at is not None:
            if self.expires_at.tzinfo is None:
                raise UsageError("expires_at needs its zone, as in 2026-12-31T00:00:00Z.")
            return self.expires_at - datetime.now(UTC)
        return DEFAULT_LIFETIME if self.expires_in is None else parse_duration(self.expires_in)


class KeyPatch(Body):
    """What can be changed of a key: all else is changed by rotating it."""

    name: str = Field(min_length=1, max_length=200, examples=["ci"])


class Rotation(Body):
    """How a key is replaced; the new one can be narrower, and never wider."""

    overlap: Duration = Field("24h", description="How long the old key goes on working.")
    tools: Texts | None = None
    addresses: Texts | None = None
    limits: Limits | None = None
    expires_in: Duration | None = Field(None, description="Lifetime of the new key; the old one's unless given.")


class Unrecorded(Answer):
    """A key that is refused from now on; this is written down when the database is back."""

    id: str
    recorded: Literal[False] = False


@router.get("/v1/tenants/{tenant}/keys", responses=responses())
async def list_keys(
    tenant: Slug,
    request: Request,
    response: Response,
    control: ControlDep,
    actor: ReadKeys,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Key]:
    """The tenant's keys, the newest first; revoked and expired ones included."""
    after = begin_of(control, actor, _ROUTE, cursor)
    found = await control.keys.page(actor.tenant_id, after, limit + 1)
    following = end_of(control, actor, _ROUTE, found, limit, lambda record: (record.created_at, record.id))
    link_next(request, response, following)
    return Page(items=[Key.of(record) for record in found[:limit]], next=following)


@router.post("/v1/tenants/{tenant}/keys", status_code=status.HTTP_201_CREATED, responses=responses(409))
@once
async def issue_key(tenant: Slug, body: NewKeyRequest, control: ControlDep, actor: ManageKeys) -> NewKey:
    """Issue a key; it is shown this once, and may do nothing that who issues it may not."""
    wanted = Wanted.of(
        name=body.name,
        scopes=body.scopes,
        tools=body.tools,
        addresses=body.addresses,
        limits=None if body.limits is None else body.limits.read(),
        lifetime=body.lifetime(),
        longest=timedelta(days=control.settings.longest_key),
    )
    await _check_grants(control, actor, wanted)
    secret, record = await control.keys.issue_wanted(tenant, wanted, actor.by, actor.tenant_id)
    return _shown(control, tenant, secret, record)


@router.get("/v1/tenants/{tenant}/keys/{key_id}", responses=responses())
async def show_key(tenant: Slug, key_id: KeyId, control: ControlDep, actor: ReadKeys) -> Key:
    """One key."""
    return Key.of(await control.keys.get(actor.tenant_id, key_id))


@router.patch("/v1/tenants/{tenant}/keys/{key_id}", responses=responses())
async def rename_key(tenant: Slug, key_id: KeyId, body: KeyPatch, control: ControlDep, actor: ManageKeys) -> Key:
    """Give a key another name."""
    _check_own(actor, await control.keys.get(actor.tenant_id, key_id))
    return Key.of(await control.keys.rename(actor.tenant_id, key_id, body.name, actor.by))


@router.delete(
    "/v1/tenants/{tenant}/keys/{key_id}",
    responses={**responses(), 202: {"model": Unrecorded, "description": "Refused; to be written down."}},
)
async def revoke_key(
    tenant: Slug,
    key_id: KeyId,
    response: Response,
    control: ControlDep,
    actor: ManageKeys,
    *,
    emergency: Annotated[
        bool, Query(description="Where the database is away: a key can end itself all the same.")
    ] = False,
) -> Key | Unrecorded:
    """Revoke a key: within a second it is refused everywhere, and its streams end. For good."""
    if not emergency:
        _check_own(actor, await control.keys.get(actor.tenant_id, key_id))
        return Key.of(await control.keys.revoke(key_id, tenant_id=actor.tenant_id, by=actor.by))
    if actor.key is None or actor.key.key_id != key_id:
        raise Forbidden("In an emergency a key ends itself alone: send the request with that key.")
    record = await control.keys.revoke_first(key_id, actor.by)
    if record is not None:
        return Key.of(record)
    response.status_code = status.HTTP_202_ACCEPTED
    return Unrecorded(id=key_id)


@router.post(
    "/v1/tenants/{tenant}/keys/{key_id}/rotate", status_code=status.HTTP_201_CREATED, responses=responses(409)
)
@once
async def rotate_key(tenant: Slug, key_id: KeyId, body: Rotation, control: ControlDep, actor: ManageKeys) -> NewKey:
    """Replace a key by a new one, shown this once; the old one is refused after the overlap."""
    old = await control.keys.get(actor.tenant_id, key_id)
    _check_own(actor, old)
    changes = KeyChanges(
        None if body.tools is None else tuple(body.tools),
        None if body.addresses is None else tuple(body.addresses),
        None if body.limits is None else body.limits.read(),
        None if body.expires_in is None else parse_duration(body.expires_in),
    )
    await _check_grants(control, actor, changes.apply(old.wanted), replaces=key_id)
    secret, record = await control.keys.rotate(
        key_id,
        overlap=parse_duration(body.overlap),
        changes=changes,
        tenant_id=actor.tenant_id,
        by=actor.by,
    )
    return _shown(control, tenant, secret, record)


def _shown(control: Control, tenant: Slug, secret: str, record: KeyRecord) -> NewKey:
    return NewKey(key=Key.of(record), secret=secret, snippets=snippets_of(control.settings, tenant, secret))


async def _check_grants(control: Control, actor: Actor, wanted: Wanted, *, replaces: str = "") -> None:
    """Refuse a key that may do more than who asks for it, or for longer.

    Raises:
        Forbidden: with what is too much.
    """
    beyond = set(wanted.scopes) - actor.grantable
    if beyond:
        raise Forbidden(f"You may not give a key the scope {min(beyond)}; you may give {_words(actor.grantable)}.")
    if actor.key is None:
        return
    own = await control.keys.get(actor.tenant_id, actor.key.key_id)
    if own.limits is not None and own.id != replaces:
        raise Forbidden("A key with limits of its own issues no others, which would count anew; use one without.")
    if datetime.now(UTC) + wanted.lifetime > min(own.expires_at, own.revoked_at or own.expires_at):
        raise Forbidden("A key that a key issues ends no later than that; give a shorter expires_in.")
    mine = Wanted(own.name, wanted.scopes, own.tools, own.wanted.lifetime, own.addresses, own.limits)
    if not wanted.within(mine):
        raise Forbidden("A key that a key issues has no more tools, addresses and limits than that; narrow it.")


def _check_own(actor: Actor, record: KeyRecord) -> None:
    """Refuse to change a key that is somebody else's, for those who manage their own, or that may do more.

    Raises:
        Forbidden: with the reason.
    """
    if actor.role == "developer" and record.created_by != actor.principal:
        raise Forbidden("You manage the keys that you issued; ask an owner or an admin for this one.")
    if actor.key is not None and actor.key.key_id != record.id and not set(record.scopes) <= actor.grantable:
        raise Forbidden("This key may do more than the one that asks; use a key of its scopes, or sign in.")


def _words(scopes: frozenset[str]) -> str:
    return ", ".join(sorted(scopes)) or "none"
