"""Everything at rest under the newest root: what is sealed with another one is sealed anew, and heads get new codes.

Harmless when it is repeated, and after it was interrupted. Pods run meanwhile, with the other root among
OTHER_SECRET_KEYS.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.by import CLI, PLATFORM, By
from trunkline.audit.heads import is_newest
from trunkline.audit.record import Recorder
from trunkline.audit.signing import HeadSealer
from trunkline.db import Database, task_scope, tenant_scope
from trunkline.errors import StartRefused
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants import snapshot
from trunkline.tenants.announce import Announcer
from trunkline.tenants.configs import PURPOSE, encode, record_of
from trunkline.tenants.sealing import Sealer
from trunkline.tenants.signing import OWNER, signing_sealer
from trunkline.tenants.tables import SigningKeyRow, TenantRow, ToolsetRow
from trunkline.tenants.tenants import next_version, toolsets_of

_ACTION = "secrets.rewrap"


@dataclass
class Rewrapped:
    """What was done."""

    signing_keys: int = 0
    secrets: int = 0
    """Of configurations of tenants' toolsets."""
    logs: int = 0
    """Audit logs whose head got a new code."""
    unreadable: int = 0
    """Signing keys and secrets that none of the roots opens; they were so before."""


class Rewrapping:
    """Seals anew what another root sealed.

    Raises, from every method:
        Unavailable: a store is away; what was done by then is done.
    """

    def __init__(self, settings: Settings, database: Database, redis: Redis) -> None:
        self._database = database
        self._announcer = Announcer(redis)
        self._recorder = Recorder(settings.root)
        self._signing = signing_sealer(settings)
        self._secrets = Sealer(settings.root, PURPOSE)
        self._heads = HeadSealer(settings.root)

    async def run(self, by: By = CLI) -> Rewrapped:
        """The signing keys, then each tenant, a transaction each."""
        done = Rewrapped()
        await self._platform(done, by)
        async with self._database.transaction(task_scope("operator")) as session:
            tenants = (await session.scalars(select(TenantRow.id).order_by(TenantRow.id))).all()
        for tenant in tenants:
            await self._tenant(tenant, done, by)
        return done

    async def _platform(self, done: Rewrapped, by: By) -> None:
        async with self._database.transaction(task_scope("operator")) as session:
            before = done.signing_keys
            for row in await session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.kid).with_for_update()):
                sealed = self._anew(self._signing, row.private_key, OWNER, row.kid, done)
                if sealed is not None:
                    row.private_key = sealed
                    done.signing_keys += 1
            await self._record(session, PLATFORM, {"signing_keys": done.signing_keys - before}, done, by)

    async def _tenant(self, tenant_id: str, done: Rewrapped, by: By) -> None:
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            tenant = await session.scalar(select(TenantRow).where(TenantRow.id == tenant_id).with_for_update())
            if tenant is None:  # it was deleted meanwhile
                return
            before = done.secrets
            rows: Sequence[ToolsetRow] = await toolsets_of(session, tenant_id)
            changed = [row for row in rows if self._rewrap(row, done)]
            if changed:
                # A new version, or workers and Redis would keep what they have.
                newest = max(tenant.version, *(row.config_version for row in changed))
                tenant.version = await next_version(session, newest)
                for row in changed:
                    row.config_version = tenant.version
            await self._record(session, tenant_id, {"secrets": done.secrets - before}, done, by)
            stored = snapshot.encode(tenant, rows)
        for row in changed:
            await self._announcer.configured(tenant_id, row.name, tenant.version, encode(row, tenant.version))
        if changed:
            await self._announcer.tenant_changed(tenant.slug, tenant_id, tenant.version, stored)

    def _rewrap(self, row: ToolsetRow, done: Rewrapped) -> bool:
        secrets = dict(row.secrets)
        for field, secret in row.secrets.items():
            sealed = base64.b64decode(secret["s"])
            record = record_of(row.name, field, secret["v"])
            anew = self._anew(self._secrets, sealed, row.tenant_id, record, done)
            if anew is not None:
                secrets[field] = {"v": secret["v"], "s": base64.b64encode(anew).decode()}
                done.secrets += 1
        changed = secrets != row.secrets
        if changed:
            row.secrets = secrets
        return changed

    def _anew(self, sealer: Sealer, sealed: bytes, owner: str, record: str, done: Rewrapped) -> bytes | None:
        try:
            return sealer.rewrap(sealed, owner, record)
        except StartRefused:
            done.unreadable += 1
            return None

    async def _record(
        self, session: AsyncSession, tenant_id: str, counted: dict[str, object], done: Rewrapped, by: By
    ) -> None:
        """Say so in the log, which gives its head a code under the newest root; nothing where nothing is to do."""
        await session.flush()
        newest = await is_newest(session, self._heads, tenant_id)
        if any(counted.values()) or not newest:
            done.logs += not newest
            await self._recorder.record(session, tenant_id, _ACTION, by=by, detail=counted)
