"""Monthly quotas: Redis is told what was used where it does not know, from the audit log; and so are people."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import structlog
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.arrived import read_event
from trunkline.audit.chain import Event
from trunkline.audit.heads import Heads
from trunkline.audit.seed import TOOL_CALL
from trunkline.db import Database, task_scope, tenant_scope
from trunkline.errors import Unavailable
from trunkline.streams.audit import EVENT_LINES, AuditEntry
from trunkline.streams.client import Redis
from trunkline.streams.quotas import QuotaUse, Used

log = structlog.get_logger(__name__)

PATIENCE: Final = 3.0
"""Seconds that a call waits until what was used is told, before it goes on without."""
_PAUSE: Final = 5.0
"""Seconds after which that is tried again; calls of the time between are counted then."""
_MOST_PAUSING: Final = 10_000

_USED: Final = text("""
    SELECT key_id, sum(calls)::bigint AS calls, sum(compute_us)::bigint AS compute_us FROM usage_daily
    WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) AND day >= :first AND day < :following GROUP BY key_id
""")
_WRITTEN: Final = text("""
    SELECT id FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid)
    AND id = ANY(CAST(CAST(:ids AS text[]) AS uuid[])) AND recorded_at >= :since
""")


def month_of(now: float) -> str:
    """The month (UTC) of an epoch time in seconds, as `2026-11`."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def month_ends(now: float) -> datetime:
    """When the month of an epoch time ends."""
    return _span(month_of(now))[1]


class QuotaSeeder:
    """Tells Redis what tenants have used in a month: once for each at a time, however many calls wait for it."""

    def __init__(self, redis: Redis, database: Database, secret: SecretStr) -> None:
        self._use = QuotaUse(redis)
        self._database = database
        self._heads = Heads(secret)
        self._running: dict[tuple[str, str, bool], asyncio.Task[bool]] = {}
        self._paused: OrderedDict[str, float] = OrderedDict()

    async def seed(self, tenant: str, month: str, *, of_tenant: bool = True) -> bool:
        """Have Redis told; False where that cannot be done now: the call goes on, and is counted later.

        Where the tenant has no quotas, only what its keys have used (`of_tenant` False).
        """
        if self._paused.get(tenant, 0.0) > time.monotonic():
            return False
        what = tenant, month, of_tenant
        running = self._running.get(what)
        if running is None:
            running = self._running[what] = asyncio.create_task(self._seed(*what))
            running.add_done_callback(lambda _: self._running.pop(what, None))
        await asyncio.wait({running}, timeout=PATIENCE)
        if not running.done():
            self._pause(tenant)  # or every call of the tenant would wait as long
            return False
        return running.result()

    async def _seed(self, tenant: str, month: str, of_tenant: bool) -> bool:
        try:
            known = await self._tell(tenant, month, of_tenant=of_tenant)
        except Unavailable:
            known = False
        except Exception:  # whatever it is: a quota is no reason to refuse a call
            log.exception("what a tenant has used cannot be told", tenant_id=tenant)
            known = False
        if not known:
            log.warning("what a tenant has used is not known; its calls go on", tenant_id=tenant, month=month)
            self._pause(tenant)
        return known

    def _pause(self, tenant: str) -> None:
        self._paused[tenant] = time.monotonic() + _PAUSE
        self._paused.move_to_end(tenant)
        if len(self._paused) > _MOST_PAUSING:
            self._paused.popitem(last=False)

    async def _tell(self, tenant: str, month: str, *, of_tenant: bool) -> bool:
        nonce = uuid7().hex
        async with self._database.transaction(task_scope("audit")) as session:
            # No writer commits events of this tenant before the end: what is in Postgres now is what was there.
            await self._heads.lock(session, [tenant])
            waiting = await self._use.begin(tenant, month, nonce, of_tenant=of_tenant)
            if isinstance(waiting, bool):
                return waiting
            used = await _used(session, tenant, month)
            events = [event for event in _calls(waiting, tenant) if _month(event) == month]
            written = await _written(session, tenant, events)
            for event in {event.id: event for event in events}.values():
                if event.id not in written:
                    for key in {"", event.actor or ""}:
                        calls, compute = used.get(key, Used())
                        used[key] = Used(calls + 1, compute + event.compute_us)
            return await self._use.finish(tenant, month, nonce, used, of_tenant=of_tenant)

    async def used(self, tenant: str, month: str) -> Used:
        """What the tenant has used: as Redis counts, or where it does not, as the log has it, some seconds behind."""
        found = await self._use.read(tenant, month)
        if found is not None:
            return found
        async with self._database.transaction(tenant_scope(tenant)) as session:
            return (await _used(session, tenant, month)).get("", Used())


async def _used(session: AsyncSession, tenant: str, month: str) -> dict[str, Used]:
    """What the log has, by key; all of the tenant under the empty name."""
    first, following = _span(month)
    values = {"tenant": tenant, "first": first.date(), "following": following.date()}
    rows = (await session.execute(_USED, values)).all()
    used = {row.key_id: Used(row.calls, row.compute_us) for row in rows}
    used[""] = Used(sum(each.calls for each in used.values()), sum(each.compute_us for each in used.values()))
    return used


async def _written(session: AsyncSession, tenant: str, events: Sequence[Event]) -> set[str]:
    """The ids of those events that are in Postgres already."""
    if not events:
        return set()
    since = datetime.fromtimestamp(min(event.occurred_us for event in events) / 1_000_000 - 3_600, UTC)
    values = {"tenant": tenant, "ids": [event.id for event in events], "since": since}
    return {row.id.hex for row in (await session.execute(_WRITTEN, values)).all()}


def _calls(entries: Sequence[AuditEntry], tenant: str) -> Iterator[Event]:
    """The tenant's calls among events on their way; what is no event is left to the writer."""
    mine = tenant.encode()
    for entry in entries:
        for first in range(0, len(entry.lines), EVENT_LINES):
            lines = entry.lines[first : first + EVENT_LINES]
            if lines[0].startswith(mine):
                with suppress(ValueError):
                    event = read_event(lines)
                    if event.action == TOOL_CALL:
                        yield event


def _month(event: Event) -> str:
    return month_of(event.occurred_us // 1_000 / 1_000)


def _span(month: str) -> tuple[datetime, datetime]:
    """The first moment of a month, and of the next one."""
    first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    return first, first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
