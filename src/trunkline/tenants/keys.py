"""API keys: issued, listed, rotated, revoked, each with its audit event in the same transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.by import CLI, By
from trunkline.audit.record import Recorder
from trunkline.db import Database, act_for, task_scope, utcnow
from trunkline.errors import Conflict, KeyNotFound, Unavailable, UsageError
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants import tokens
from trunkline.tenants.announce import Announcer, RevokedKey
from trunkline.tenants.model import check_scopes
from trunkline.tenants.patterns import check_tools
from trunkline.tenants.signing import (
    SigningKey,
    encode_keys,
    load_signing_key,
    load_verification_keys,
    signing_sealer,
)
from trunkline.tenants.tables import KeyRow, TenantRow
from trunkline.tenants.tenants import DIRECTORY, check_name, read

DEFAULT_LIFETIME = timedelta(days=90)
SHORTEST_LIFETIME = timedelta(minutes=1)
LONGEST_LIFETIME = timedelta(days=366)
DEFAULT_OVERLAP = timedelta(hours=24)
"""How long a rotated key goes on working beside the new one, unless said otherwise."""

_DURATION = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key; the key itself is nowhere."""

    id: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    tools: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    """From when on it is refused; in the future while a rotation overlaps."""
    last_used_at: datetime | None
    replaced_by: str | None


def parse_duration(value: str) -> timedelta:
    """Read `90d`, `24h`, `30m`, `45s` or `2w`.

    Raises:
        UsageError: it is not of that form.
    """
    found = _DURATION.fullmatch(value)
    if found is None:
        raise UsageError(f"{value!r} is not a duration; write a number and s, m, h, d or w, such as 90d.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


class Keys:
    """What an operator does with keys. Each method is one transaction, and then tells every pod what it must know.

    Raises, from every method:
        TenantNotFound, KeyNotFound: there is no such tenant, no such key.
        Unavailable: Postgres is away and nothing has changed, or Redis is and the sentence says what is stored.
        StartRefused: SECRET_KEY is missing, or not the one that the signing keys were encrypted with.
    """

    def __init__(self, settings: Settings, database: Database, redis: Redis) -> None:
        self._settings = settings
        self._database = database
        self._announcer = Announcer(redis)
        self._recorder = Recorder(settings.secret_key)

    async def issue(
        self,
        slug: str,
        *,
        name: str = "",
        scopes: Iterable[str] = (),
        tools: Iterable[str] = (),
        expires: timedelta = DEFAULT_LIFETIME,
        by: By = CLI,
    ) -> tuple[str, KeyRecord]:
        """A new key, shown this once, and its record; no scopes means all, no tool patterns means every tool.

        Raises:
            UsageError: a scope, a pattern, the name or the lifetime cannot be.
        """
        wanted = Wanted(check_name(name or "key"), check_scopes(scopes), check_tools(tools), check_lifetime(expires))
        async with self._database.transaction(DIRECTORY) as session:
            tenant = await read(session, slug)
            token, row, published = await self.issue_in(session, tenant, wanted, by)
        await self.publish(published)
        return token, _record(row)

    async def issue_in(
        self, session: AsyncSession, tenant: TenantRow, wanted: Wanted, by: By
    ) -> tuple[str, KeyRow, Published | None]:
        """A new key with its event, in the caller's transaction, which acts for the tenant; `publish` afterwards."""
        token, row, published = await self._add(session, tenant, wanted)
        await self._record(session, row, "key.issue", by)
        return token, row, published

    async def list(self, slug: str) -> tuple[KeyRecord, ...]:
        """The tenant's keys, oldest first, revoked and expired ones included."""
        async with self._database.transaction(DIRECTORY) as session:
            tenant = await read(session, slug)
            query = select(KeyRow).where(KeyRow.tenant_id == tenant.id).order_by(KeyRow.created_at, KeyRow.id)
            return tuple(_record(row) for row in await session.scalars(query))

    async def rotate(
        self, key_id: str, *, overlap: timedelta = DEFAULT_OVERLAP, by: By = CLI
    ) -> tuple[str, KeyRecord]:
        """A new key with the same name, rights and lifetime; the old one is refused after the overlap.

        Should Redis go away meanwhile, the new key is given all the same: pods read the database every half minute.

        Raises:
            Unavailable: one of the stores is away; nothing has changed.
            Conflict: the key was revoked or replaced, or has expired.
            UsageError: the overlap is negative.
        """
        if overlap < timedelta(0):
            raise UsageError("The overlap of two keys cannot be negative.")
        await self._announcer.check()
        async with self._database.transaction(DIRECTORY) as session:
            old = await _read_key(session, key_id)
            now = utcnow()
            if old.revoked_at is not None or old.expires_at <= now:
                raise Conflict(f"Key {key_id} was revoked or replaced, or has expired; issue a new one.")
            tenant = await session.get_one(TenantRow, old.tenant_id)
            wanted = Wanted(old.name, tuple(old.scopes), tuple(old.tools), old.expires_at - old.created_at)
            token, row, published = await self._add(session, tenant, wanted)
            old.replaced_by, old.revoked_at = row.id, min(now + overlap, old.expires_at)
            await self._record(session, old, "key.rotate", by)
        await self.publish(published)
        with suppress(Unavailable):
            await self._announcer.keys_revoked([_revoked(old)])
        return token, _record(row)

    async def revoke(self, key_id: str, *, at: datetime | None = None, by: By = CLI) -> KeyRecord:
        """Refuse the key everywhere from `at` (now) on. A revocation is never undone and never made later.

        Revoking again tells the pods again, and is no further event.
        """
        async with self._database.transaction(DIRECTORY) as session:
            row = await _read_key(session, key_id)
            from_when = utcnow() if at is None else at
            if row.revoked_at is None or from_when < row.revoked_at:
                row.revoked_at = from_when
                await self._record(session, row, "key.revoke", by)
        await self._announcer.keys_revoked([_revoked(row)])
        return _record(row)

    async def ensure_signing_key(self) -> None:
        """Have a key that signs, so that pods can publish and know it before the first API key is issued."""
        async with self._database.transaction(task_scope("operator")) as session:
            _, published = await self._signing_key(session)
        await self.publish(published)

    async def _add(
        self, session: AsyncSession, tenant: TenantRow, wanted: Wanted
    ) -> tuple[str, KeyRow, Published | None]:
        signing, published = await self._signing_key(session)
        now = utcnow().replace(microsecond=0)
        row = KeyRow(
            id=f"key_{uuid7().hex}",
            tenant_id=tenant.id,
            name=wanted.name,
            scopes=list(wanted.scopes),
            tools=list(wanted.tools),
            created_at=now,
            expires_at=now + wanted.lifetime,
        )
        token = tokens.sign(_claims(self._settings, tenant, row), signing)
        session.add(row)
        await session.flush()
        return token, row, published

    async def _record(self, session: AsyncSession, row: KeyRow, action: str, by: By) -> None:
        detail: dict[str, object] = {"name": row.name}
        if action == "key.issue":
            detail |= {"scopes": row.scopes, "tools": row.tools, "expires_at": row.expires_at.isoformat()}
        if row.revoked_at is not None:
            detail["refused_from"] = row.revoked_at.isoformat()
        if row.replaced_by is not None:
            detail["replaced_by"] = row.replaced_by
        await self._recorder.record(session, row.tenant_id, action, by=by, target=row.id, detail=detail)

    async def _signing_key(self, session: AsyncSession) -> tuple[SigningKey, Published | None]:
        key, created = await load_signing_key(session, signing_sealer(self._settings))
        if not created:
            return key, None
        version, keys = await load_verification_keys(session)
        return key, Published(version, encode_keys(keys))

    async def publish(self, published: Published | None) -> None:
        """Spare the pods the look into Postgres that the first call with the new signing key would cost them."""
        if published is not None:
            with suppress(Unavailable):
                await self._announcer.signing_keys_changed(published.version, published.snapshot)


async def load_revocations(session: AsyncSession) -> dict[str, float]:
    """Every revoked key that has not expired, with the epoch seconds from which it is refused."""
    query = select(KeyRow.id, KeyRow.revoked_at).where(KeyRow.revoked_at.is_not(None), KeyRow.expires_at > utcnow())
    return {key_id: at.timestamp() for key_id, at in await session.execute(query) if at is not None}


def check_lifetime(lifetime: timedelta) -> timedelta:
    """Give a key's lifetime back.

    Raises:
        UsageError: it is too short or too long.
    """
    if not SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME:
        raise UsageError("A key lives from 1 minute (1m) to 366 days (366d).")
    return lifetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new key is to be, checked."""

    name: str
    scopes: tuple[str, ...]
    tools: tuple[str, ...]
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Published:
    """The signing keys after a new one was made."""

    version: int
    snapshot: bytes


def _claims(settings: Settings, tenant: TenantRow, row: KeyRow) -> dict[str, object]:
    return {
        "iss": settings.public_url,
        "aud": settings.tenant_url(tenant.slug),
        "tenant": tenant.id,
        "slug": tenant.slug,
        "jti": row.id,
        "scope": " ".join(row.scopes),
        "tools": row.tools,
        "iat": int(row.created_at.timestamp()),
        "exp": int(row.expires_at.timestamp()),
    }


async def _read_key(session: AsyncSession, key_id: str) -> KeyRow:
    """A key to change; the transaction acts for its tenant from here on."""
    tenant_id = await session.scalar(select(KeyRow.tenant_id).where(KeyRow.id == key_id))
    if tenant_id is None:
        raise KeyNotFound(f"There is no key {key_id!r}.")
    await act_for(session, tenant_id)
    row = await session.scalar(select(KeyRow).where(KeyRow.id == key_id).with_for_update())
    if row is None:
        raise KeyNotFound(f"There is no key {key_id!r}.")
    return row


def _revoked(row: KeyRow) -> RevokedKey:
    assert row.revoked_at is not None, "only revoked keys are announced"  # noqa: S101
    return RevokedKey(row.id, row.revoked_at.timestamp(), row.expires_at.timestamp())


def _record(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        scopes=tuple(row.scopes),
        tools=tuple(row.tools),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        replaced_by=row.replaced_by,
    )
