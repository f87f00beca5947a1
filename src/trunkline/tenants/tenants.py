"""Tenants and what they have switched on: stored in Postgres, then told to Redis and every pod."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.by import CLI, By
from trunkline.audit.record import Recorder
from trunkline.db import Database, act_for, task_scope, utcnow
from trunkline.errors import Conflict, NotFound, TenantNotFound, Unavailable
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.emergencies import Emergencies, Emergency
from trunkline.streams.quotas import QuotaUse
from trunkline.tenants import snapshot
from trunkline.tenants.announce import Announcer, RevokedKey
from trunkline.tenants.emergency import written
from trunkline.tenants.limits import Quotas
from trunkline.tenants.model import Tenant, check_slug, is_label
from trunkline.tenants.quotas import month_of
from trunkline.tenants.settable import check_name, parse_changes
from trunkline.tenants.tables import KeyRow, TenantRow, ToolsetRow

# What follows speaks to Postgres and leaves the commit to its caller.


async def find(session: AsyncSession, slug: str) -> TenantRow | None:
    """The tenant of that name, if there is one."""
    return await session.scalar(select(TenantRow).where(TenantRow.slug == slug))


async def read(session: AsyncSession, slug: str, *, to_change: bool = False, tenant_id: str = "") -> TenantRow:
    """The tenant of that name, for which the transaction acts from here on; it began as `directory` or the like.

    Nobody else changes the tenant within this transaction when it is read `to_change`.

    Raises:
        TenantNotFound: there is none; or it is not the one of that id, which had the name before.
    """
    row = await find(session, slug) if is_label(slug) else None
    if row is not None and tenant_id not in {"", row.id}:
        row = None
    if row is not None:
        await act_for(session, row.id)
        if to_change:
            query = select(TenantRow).where(TenantRow.id == row.id).with_for_update()
            row = await session.scalar(query, execution_options={"populate_existing": True})
    if row is None:
        raise TenantNotFound(f"There is no tenant {slug!r}.")
    return row


async def toolsets_of(session: AsyncSession, tenant_id: str) -> list[ToolsetRow]:
    """The tenant's toolsets in the order of first switching on."""
    query = select(ToolsetRow).where(ToolsetRow.tenant_id == tenant_id).order_by(ToolsetRow.position)
    return list(await session.scalars(query))


async def load_snapshot(session: AsyncSession, slug: str) -> bytes | None:
    """The snapshot of the tenant as it is stored now; None if there is no such tenant."""
    row = await find(session, slug)
    return None if row is None else snapshot.encode(row, await toolsets_of(session, row.id))


async def next_version(session: AsyncSession, known: int = 0) -> int:
    """A version above `known` and above every version of an earlier tenant of the same name.

    It follows the milliseconds of Postgres's clock, so that a snapshot that outlived its tenant, or a database
    restored from a backup, never shadows what comes later.
    """
    clock = cast(func.extract("epoch", func.clock_timestamp()) * 1000, BigInteger)
    return int(await session.scalar(select(func.greatest(clock, known + 1))) or 0)


async def switch(session: AsyncSession, tenant_id: str, toolset: str, *, on: bool) -> bool:
    """Switch a toolset on or off; the tenant must have been read `to_change`.

    Returns:
        Whether that changed anything.

    Raises:
        NotFound: it is to be switched off and never was on.
    """
    rows = await toolsets_of(session, tenant_id)
    for row in rows:
        if row.name == toolset:
            was, row.enabled = row.enabled, on
            return was != on
    if not on:
        raise NotFound(f"The tenant has no toolset {toolset!r} switched on.")
    position = 1 + max((row.position for row in rows), default=0)
    session.add(ToolsetRow(tenant_id=tenant_id, name=toolset, position=position, enabled=True))
    return True


Change = Callable[[AsyncSession, TenantRow], Awaitable[bool]]
"""Changes a tenant, and says whether that made a difference."""

DIRECTORY: Final = task_scope("directory")
"""How a transaction begins that knows a tenant by its name."""


class Tenants:
    """What is done with tenants. Each method is one transaction, with its audit event, and then tells every pod.

    Where a method takes a tenant's id besides its name, it is that tenant or none: another may have the name by now.

    Raises, from every method that changes something:
        TenantNotFound: there is no such tenant.
        Unavailable: Postgres is away and nothing has changed, or Redis is and the sentence says what is stored.
    """

    def __init__(self, settings: Settings, database: Database, redis: Redis) -> None:
        self._defaults = snapshot.default_limits(settings)
        self._database = database
        self._announcer = Announcer(redis)
        self._clock = redis.clock
        self._emergencies = Emergencies(redis)
        self._use = QuotaUse(redis)
        self._recorder = Recorder(settings.root)

    async def create(self, slug: str, name: str = "", *, by: By = CLI) -> Tenant:
        """A new tenant with nothing switched on.

        Raises:
            UsageError: the slug breaks a rule.
            Conflict: the slug is taken.
        """
        async with self._database.transaction(task_scope("operator")) as session:
            row = await self.create_in(session, slug, name)
            detail = {"slug": row.slug, "name": row.name}
            await self._recorder.record(session, row.id, "tenant.create", by=by, target=row.id, detail=detail)
        return await self.tell(row)

    async def create_in(self, session: AsyncSession, slug: str, name: str) -> TenantRow:
        """A new tenant in the caller's transaction, which is a task's that may make one; `tell` of it afterwards.

        Raises:
            UsageError: the slug breaks a rule.
            Conflict: the slug is taken.
        """
        row = TenantRow(id=uuid7().hex, slug=check_slug(slug), name=check_name(name or slug))
        row.access, row.status = "key", "active"
        row.version = await next_version(session)
        session.add(row)
        try:
            await session.flush()
        except IntegrityError as error:
            raise Conflict(f"There is a tenant {slug!r} already.") from error
        return row

    async def tell(self, row: TenantRow, toolsets: Sequence[ToolsetRow] = ()) -> Tenant:
        """Tell every pod of a tenant that was made just now."""
        return await self._tell(row, snapshot.encode(row, toolsets))

    def shown(self, row: TenantRow, toolsets: Sequence[ToolsetRow]) -> Tenant:
        """A tenant as of this row."""
        return self._tenant(snapshot.encode(row, toolsets))

    async def list(self) -> tuple[Tenant, ...]:
        """All tenants by slug."""
        async with self._database.transaction(task_scope("operator")) as session:
            rows = list(await session.scalars(select(TenantRow).order_by(TenantRow.slug)))
            switches = list(await session.scalars(select(ToolsetRow).order_by(ToolsetRow.position)))
        of: dict[str, list[ToolsetRow]] = {row.id: [] for row in rows}
        for toolset in switches:
            of.setdefault(toolset.tenant_id, []).append(toolset)
        return tuple(self._tenant(snapshot.encode(row, of[row.id])) for row in rows)

    async def page(self, after: str, limit: int) -> Sequence[Tenant]:
        """Tenants by slug, behind `after`."""
        async with self._database.transaction(task_scope("operator")) as session:
            query = select(TenantRow).where(TenantRow.slug > after).order_by(TenantRow.slug).limit(limit)
            rows = list(await session.scalars(query))
            of: dict[str, list[ToolsetRow]] = {row.id: [] for row in rows}
            switches = select(ToolsetRow).where(ToolsetRow.tenant_id.in_(list(of)))
            for toolset in await session.scalars(switches.order_by(ToolsetRow.position)):
                of[toolset.tenant_id].append(toolset)
        return [self.shown(row, of[row.id]) for row in rows]

    async def get(self, slug: str, *, tenant_id: str = "") -> Tenant:
        """The tenant as Postgres has it."""
        async with self._database.transaction(DIRECTORY) as session:
            row = await read(session, slug, tenant_id=tenant_id)
            return self._tenant(snapshot.encode(row, await toolsets_of(session, row.id)))

    async def set(self, slug: str, changes: Mapping[str, str], *, by: By = CLI, tenant_id: str = "") -> Tenant:
        """Change what `settable` names; `default` takes a limit back to the deployment's default.

        Raises:
            UsageError: a name or value that cannot be; then nothing has changed.
        """
        values = parse_changes(changes)

        async def change(_: AsyncSession, row: TenantRow) -> bool:
            for name, value in values.items():
                setattr(row, name, value)
            Quotas(row.monthly_calls, row.monthly_calls_soft, row.monthly_compute, row.monthly_compute_soft).check()
            return True

        action = "tenant.update" if values.keys() & {"name", "access"} else "limits.set"
        changed = await self._change(slug, change, action, by, detail=dict(changes), tenant_id=tenant_id)
        if any(name.startswith("monthly_") for name in values):
            await self._use.forget(changed.id, month_of(self._clock.now()))
        return changed

    async def suspend(self, slug: str, *, reason: str = "", by: By = CLI) -> Tenant:
        """Refuse all its clients until it is resumed; nothing of it is lost."""
        return await self._set_status(slug, "suspended", "tenant.suspend", reason, by)

    async def suspend_first(self, slug: str, *, by: By = CLI) -> Tenant | None:
        """Refuse all its clients from now on, and write it down then; None where Postgres is away.

        It is written down when Postgres is back, before anything else of the tenant changes.

        Raises:
            Unavailable: Redis is away; or Postgres, and Redis knows nothing of the tenant.
        """
        known = await self._announcer.tenant_copy(slug)
        if known is None:
            return await self.suspend(slug, by=by)
        now = self._clock.now()
        emergency = Emergency("suspend", slug, now, by)
        await self._emergencies.note(emergency)
        tenant_id, version, changed = snapshot.suspended(known, int(now * 1000))
        await self._announcer.tenant_changed(slug, tenant_id, version, changed)
        return await written(self.settle(emergency))

    async def settle(self, emergency: Emergency) -> Tenant:
        """Write down a suspension that is in force.

        Raises:
            TenantNotFound: it was deleted.
        """

        async def change(_: AsyncSession, row: TenantRow) -> bool:
            was, row.status = row.status, "suspended"
            row.version = max(row.version, int(emergency.at * 1000))
            return was != "suspended"

        detail = {"emergency": True}
        try:
            by = By(*emergency.by)  # type: ignore[arg-type]  # noted from one
            changed = await self._change_now(emergency.target, change, "tenant.suspend", by, detail=detail)
        except TenantNotFound:
            await self._emergencies.forget(emergency)
            raise
        await self._emergencies.forget(emergency)
        return changed

    async def resume(self, slug: str, *, reason: str = "", by: By = CLI) -> Tenant:
        """Serve its clients again."""
        return await self._set_status(slug, "active", "tenant.resume", reason, by)

    async def enable(self, slug: str, toolset: str, *, by: By = CLI, tenant_id: str = "") -> Tenant:
        """Switch a toolset on; one that was on before takes its old place again. Clients hear that lists changed."""
        check_name(toolset)
        return await self._switch(slug, toolset, by, on=True, tenant_id=tenant_id)

    async def disable(self, slug: str, toolset: str, *, by: By = CLI, tenant_id: str = "") -> Tenant:
        """Switch a toolset off. Its clients hear that lists changed.

        Raises:
            NotFound: it never was on.
        """
        return await self._switch(slug, toolset, by, on=False, tenant_id=tenant_id)

    async def delete(self, slug: str, *, by: By = CLI, tenant_id: str = "") -> None:
        """Remove the tenant, its toolsets, members and keys, for good; its audit log stays."""
        another = False
        try:
            async with self._database.transaction(DIRECTORY) as session:
                row = await read(session, slug, to_change=True)
                another = tenant_id not in {"", row.id}
                if another:
                    raise TenantNotFound
                now = utcnow()
                live = select(KeyRow).where(KeyRow.tenant_id == row.id, KeyRow.expires_at > now)
                keys = [
                    RevokedKey(key.id, now.timestamp(), key.expires_at.timestamp())
                    for key in await session.scalars(live)
                ]
                await session.delete(row)
                await session.flush()
                detail = {"slug": slug, "live_keys": len(keys)}
                await self._recorder.record(session, row.id, "tenant.delete", by=by, target=row.id, detail=detail)
        except TenantNotFound:
            # Perhaps it was deleted while Redis was away: then Redis still has it, and this is who repairs that.
            if not another:
                await self._announcer.tenant_gone(slug, "")
            raise
        await self._announcer.tenant_gone(slug, row.id)
        await self._announcer.keys_revoked(keys)

    async def _switch(self, slug: str, toolset: str, by: By, *, on: bool, tenant_id: str) -> Tenant:
        switched = False

        async def change(session: AsyncSession, row: TenantRow) -> bool:
            nonlocal switched
            switched = await switch(session, row.id, toolset, on=on)
            return switched

        action = "toolset.enable" if on else "toolset.disable"
        tenant = await self._change(slug, change, action, by, target=toolset, tenant_id=tenant_id)
        if switched:
            await self._announcer.lists_changed(slug, tenant.id)
        return tenant

    async def _set_status(self, slug: str, status: str, action: str, reason: str, by: By) -> Tenant:
        async def change(_: AsyncSession, row: TenantRow) -> bool:
            was, row.status = row.status, status
            return was != status

        return await self._change(slug, change, action, by, detail={"reason": reason} if reason else {})

    async def _change(
        self,
        slug: str,
        change: Change,
        action: str,
        by: By,
        *,
        target: str = "",
        detail: Mapping[str, object] | None = None,
        tenant_id: str = "",
    ) -> Tenant:
        with suppress(Unavailable, TenantNotFound):
            if (waiting := await self._emergencies.get("suspend", slug)) is not None:
                await self.settle(waiting)
        return await self._change_now(slug, change, action, by, target=target, detail=detail, tenant_id=tenant_id)

    async def _change_now(
        self,
        slug: str,
        change: Change,
        action: str,
        by: By,
        *,
        target: str = "",
        detail: Mapping[str, object] | None = None,
        tenant_id: str = "",
    ) -> Tenant:
        async with self._database.transaction(DIRECTORY) as session:
            row = await read(session, slug, to_change=True, tenant_id=tenant_id)
            changes = await change(session, row)
            row.version = await next_version(session, row.version)
            row.updated_at = utcnow()
            await session.flush()
            changed = snapshot.encode(row, await toolsets_of(session, row.id))
            if changes:
                await self._recorder.record(session, row.id, action, by=by, target=target or row.id, detail=detail)
        return await self._tell(row, changed)

    async def _tell(self, row: TenantRow, changed: bytes) -> Tenant:
        await self._announcer.tenant_changed(row.slug, row.id, row.version, changed)
        return self._tenant(changed)

    def _tenant(self, stored: bytes) -> Tenant:
        tenant = snapshot.decode(stored, self._defaults)
        assert tenant is not None, "a row is no tombstone"  # noqa: S101
        return tenant
