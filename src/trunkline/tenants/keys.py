"""API keys: issued, listed, rotated, revoked, each with its audit event in the same transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.by import CLI, By
from trunkline.audit.record import Recorder
from trunkline.control_errors import KeyNotFound
from trunkline.db import Database, Scope, act_for, task_scope, tenant_scope, utcnow
from trunkline.errors import Conflict, Unavailable, UsageError
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.emergencies import Emergencies, Emergency
from trunkline.tenants import tokens
from trunkline.tenants.announce import Announcer, RevokedKey
from trunkline.tenants.emergency import written
from trunkline.tenants.key_options import (
    DEFAULT_LIFETIME,
    KeyChanges,
    Wanted,
    check_lifetime,
    claims_of,
    grants_of,
    wanted_of,
)
from trunkline.tenants.key_record import KeyRecord, record_of
from trunkline.tenants.key_room import check_room
from trunkline.tenants.limits import KeyLimits
from trunkline.tenants.settable import check_name
from trunkline.tenants.signing import (
    SigningKey,
    encode_keys,
    load_signing_key,
    load_verification_keys,
    signing_sealer,
)
from trunkline.tenants.tables import KeyRow, TenantRow
from trunkline.tenants.tenants import DIRECTORY, read

DEFAULT_OVERLAP = timedelta(hours=24)
"""How long a rotated key goes on working beside the new one, unless said otherwise."""
LONGEST_OVERLAP = timedelta(days=366)

_KEY_ID = re.compile(r"key_[0-9a-f]{32}", re.ASCII)


class Keys:
    """What is done with keys. Each method is one transaction, and then tells every pod what it must know.

    Where a method takes a tenant's id, the keys of others do not exist; without one it is an operator's.

    Raises, from every method:
        TenantNotFound, KeyNotFound: there is no such tenant, no such key.
        Unavailable: Postgres is away and nothing has changed, or Redis is and the sentence says what is stored.
        StartRefused: SECRET_KEY is missing, or not the one that the signing keys were encrypted with.
    """

    def __init__(self, settings: Settings, database: Database, redis: Redis) -> None:
        self._settings = settings
        self._database = database
        self._redis = redis
        self._announcer = Announcer(redis)
        self._emergencies = Emergencies(redis)
        self._recorder = Recorder(settings.root)
        self._longest = timedelta(days=settings.longest_key)

    async def issue(
        self,
        slug: str,
        *,
        name: str = "",
        scopes: Iterable[str] = (),
        tools: Iterable[str] = (),
        addresses: Iterable[str] = (),
        limits: KeyLimits | None = None,
        expires: timedelta = DEFAULT_LIFETIME,
        by: By = CLI,
    ) -> tuple[str, KeyRecord]:
        """A new key, shown this once, and its record.

        No scopes means those of the message path, no tool patterns every tool, no addresses everywhere.

        Raises:
            UsageError: a scope, a pattern, a range, a limit, the name or the lifetime cannot be.
            Conflict: the tenant has as many keys as it may.
        """
        wanted = Wanted.of(
            name=name,
            scopes=scopes,
            tools=tools,
            addresses=addresses,
            limits=limits,
            lifetime=expires,
            longest=self._longest,
        )
        return await self.issue_wanted(slug, wanted, by)

    async def issue_wanted(self, slug: str, wanted: Wanted, by: By, tenant_id: str = "") -> tuple[str, KeyRecord]:
        """The same, of what was checked already; with an id, of that tenant alone, whoever has its name by now."""
        async with self._database.transaction(DIRECTORY) as session:
            tenant = await read(session, slug, tenant_id=tenant_id)
            token, row, published = await self.issue_in(session, tenant, wanted, by)
        await self.publish(published)
        return token, record_of(row)

    async def issue_in(
        self, session: AsyncSession, tenant: TenantRow, wanted: Wanted, by: By
    ) -> tuple[str, KeyRow, Published | None]:
        """A new key with its event, in the caller's transaction, which acts for the tenant; `publish` afterwards."""
        token, row, published = await self._add(session, tenant, wanted, by)
        await self._record(session, row, "key.issue", by)
        return token, row, published

    async def list(self, slug: str) -> tuple[KeyRecord, ...]:
        """The tenant's keys, oldest first, revoked and expired ones included."""
        async with self._database.transaction(DIRECTORY) as session:
            tenant = await read(session, slug)
            query = select(KeyRow).where(KeyRow.tenant_id == tenant.id).order_by(KeyRow.created_at, KeyRow.id)
            return tuple(record_of(row) for row in await session.scalars(query))

    async def page(self, tenant_id: str, after: tuple[datetime, str] | None, limit: int) -> tuple[KeyRecord, ...]:
        """Up to `limit` keys of the tenant, the newest first, behind the one issued then with that id."""
        query = select(KeyRow).where(KeyRow.tenant_id == tenant_id)
        if after is not None:
            query = query.where(tuple_(KeyRow.created_at, KeyRow.id) < after)
        query = query.order_by(KeyRow.created_at.desc(), KeyRow.id.desc()).limit(limit)
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            return tuple(record_of(row) for row in await session.scalars(query))

    async def get(self, tenant_id: str, key_id: str) -> KeyRecord:
        """One key of the tenant."""
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            return record_of(await _read_key(session, key_id, tenant_id, to_change=False))

    async def rename(self, tenant_id: str, key_id: str, name: str, by: By) -> KeyRecord:
        """Give a key another name, for people.

        Raises:
            UsageError: the name cannot be.
        """
        check_name(name)
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            row = await _read_key(session, key_id, tenant_id)
            if row.name != name:
                row.name = name
                await self._record(session, row, "key.rename", by)
            return record_of(row)

    async def rotate(
        self,
        key_id: str,
        *,
        overlap: timedelta = DEFAULT_OVERLAP,
        changes: KeyChanges | None = None,
        tenant_id: str = "",
        by: By = CLI,
    ) -> tuple[str, KeyRecord]:
        """A new key with the same name, rights and lifetime, or less; the old one is refused after the overlap.

        What it uses in a month is counted anew. Should Redis go away meanwhile, the new key is given all the same:
        pods read the database every half minute.

        Raises:
            Unavailable: one of the stores is away; nothing has changed.
            Conflict: the key was revoked or replaced, or has expired; or the tenant has as many as it may.
            UsageError: the overlap is negative, or the new key would be wider.
        """
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise UsageError("The overlap of two keys is 0 seconds (0s) to 366 days (366d); it cannot be negative.")
        await self._announcer.check()
        async with self._database.transaction(_scope(tenant_id)) as session:
            old = await _read_key(session, key_id, tenant_id)
            now = utcnow()
            if old.revoked_at is not None or old.expires_at <= now:
                raise Conflict(f"Key {key_id} was revoked or replaced, or has expired; issue a new one.")
            tenant = await session.get_one(TenantRow, old.tenant_id)
            wanted = wanted_of(old) if changes is None else changes.apply(wanted_of(old))
            check_lifetime(wanted.lifetime, self._longest)
            token, row, published = await self._add(session, tenant, wanted, by)
            old.replaced_by, old.revoked_at = row.id, min(now + overlap, old.expires_at)
            await self._record(session, old, "key.rotate", by, new=grants_of(row))
        await self.publish(published)
        with suppress(Unavailable):
            await self._announcer.keys_revoked([_revoked(old)])
        return token, record_of(row)

    async def revoke(
        self, key_id: str, *, at: datetime | None = None, tenant_id: str = "", by: By = CLI
    ) -> KeyRecord:
        """Refuse the key everywhere from `at` (now) on. A revocation is never undone and never made later.

        Revoking again tells the pods again, and is no further event.
        """
        async with self._database.transaction(_scope(tenant_id)) as session:
            row = await _read_key(session, key_id, tenant_id)
            await self._revoke_in(session, row, utcnow() if at is None else at, by)
        await self._announcer.keys_revoked([_revoked(row)])
        return record_of(row)

    async def revoke_first(self, key_id: str, by: By = CLI) -> KeyRecord | None:
        """Refuse the key everywhere from now on, and write it down then; None where Postgres is away.

        It is written down when Postgres is back. Until then nobody knows whether there is such a key.

        Raises:
            KeyNotFound: Postgres knows none of that id, such as one of after a backup; it is refused all the same.
            Unavailable: Redis is away.
        """
        if not _KEY_ID.fullmatch(key_id):
            raise KeyNotFound(f"There is no key {key_id!r}.")
        now = self._redis.clock.now()
        emergency = Emergency("revoke", key_id, now, by)
        await self._emergencies.note(emergency)
        await self._announcer.keys_revoked([RevokedKey(key_id, now, now + self._longest.total_seconds())])
        return await written(self.settle(emergency))

    async def settle(self, emergency: Emergency) -> KeyRecord:
        """Write down a revocation that is in force.

        Raises:
            KeyNotFound: there was no such key.
        """
        try:
            async with self._database.transaction(DIRECTORY) as session:
                row = await _read_key(session, emergency.target)
                at = datetime.fromtimestamp(emergency.at, UTC)
                await self._revoke_in(session, row, at, _by(emergency), emergency=True)
        except KeyNotFound as error:
            await self._emergencies.forget(emergency)
            raise KeyNotFound(
                f"The database knows no key {emergency.target!r}. Should there be one all the same, as where an old "
                "backup was restored, it is refused everywhere now."
            ) from error
        await self._emergencies.forget(emergency)
        return record_of(row)

    async def _revoke_in(
        self, session: AsyncSession, row: KeyRow, at: datetime, by: By, *, emergency: bool = False
    ) -> None:
        """Note the revocation with its event, in the caller's transaction, unless it is noted already."""
        if row.revoked_at is None or at < row.revoked_at:
            row.revoked_at = at
            await self._record(session, row, "key.revoke", by, **({"emergency": True} if emergency else {}))

    async def ensure_signing_key(self) -> None:
        """Have a key that signs, so that pods can publish and know it before the first API key is issued."""
        async with self._database.transaction(task_scope("operator")) as session:
            _, published = await self._signing_key(session)
        await self.publish(published)

    async def _add(
        self, session: AsyncSession, tenant: TenantRow, wanted: Wanted, by: By
    ) -> tuple[str, KeyRow, Published | None]:
        await check_room(session, tenant.id, self._settings.tenant_keys)
        signing, published = await self._signing_key(session)
        now = utcnow().replace(microsecond=0)
        row = KeyRow(
            id=f"key_{uuid7().hex}",
            tenant_id=tenant.id,
            name=wanted.name,
            scopes=list(wanted.scopes),
            tools=list(wanted.tools),
            addresses=list(wanted.addresses),
            limits={} if wanted.limits is None else wanted.limits.claims(),
            kid=signing.kid,
            created_by=f"{by.kind}:{by.id}",
            created_at=now,
            expires_at=now + wanted.lifetime,
        )
        token = tokens.sign(claims_of(self._settings, tenant, row), signing)
        session.add(row)
        await session.flush()
        return token, row, published

    async def _record(self, session: AsyncSession, row: KeyRow, action: str, by: By, **more: object) -> None:
        detail: dict[str, object] = {"name": row.name, **more}
        if action == "key.issue":
            detail |= grants_of(row)
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


@dataclass(frozen=True, slots=True)
class Published:
    """The signing keys after a new one was made."""

    version: int
    snapshot: bytes


def _by(emergency: Emergency) -> By:
    return By(*emergency.by)  # type: ignore[arg-type]  # noted from a By


def _scope(tenant_id: str) -> Scope:
    return tenant_scope(tenant_id) if tenant_id else DIRECTORY


async def _read_key(session: AsyncSession, key_id: str, tenant_id: str = "", *, to_change: bool = True) -> KeyRow:
    """A key; the transaction acts for its tenant from here on."""
    missing = KeyNotFound(f"There is no key {key_id!r}.") if not tenant_id else KeyNotFound()
    if not _KEY_ID.fullmatch(key_id):
        raise missing
    if not tenant_id:
        found = await session.scalar(select(KeyRow.tenant_id).where(KeyRow.id == key_id))
        if found is None:
            raise missing
        await act_for(session, found)
        tenant_id = found
    query = select(KeyRow).where(KeyRow.id == key_id, KeyRow.tenant_id == tenant_id)
    row = await session.scalar(query.with_for_update() if to_change else query)
    if row is None:
        raise missing
    return row


def _revoked(row: KeyRow) -> RevokedKey:
    assert row.revoked_at is not None, "only revoked keys are announced"  # noqa: S101
    return RevokedKey(row.id, row.revoked_at.timestamp(), row.expires_at.timestamp())
