"""Drops the oldest months of the log, in a way that leaves what remains verifiable."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.anchors import Anchors
from trunkline.audit.by import PLATFORM
from trunkline.audit.chain import Checkpoint, Event, Head, microseconds
from trunkline.audit.heads import Heads, head_of
from trunkline.audit.signing import HeadSealer
from trunkline.db import Database, sqlstate, task_scope, utcnow
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.streams.client import Redis

log = structlog.get_logger("trunkline.audit")

_EVERY: Final = 3600.0
"""Seconds between looks, on each worker."""
_LONG: Final = 30.0
"""Seconds that reading all heads may take."""
_AT_ONCE: Final = 100
"""Heads on their way to Redis."""
_LOCK: Final = 0x61756469  # "audi"
_SCOPE: Final = task_scope("audit")
_LOCK_NOT_AVAILABLE: Final = "55P03"

_OLDEST: Final = text("""
    SELECT substring(c.relname FROM '\\d{4}_\\d{2}$') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_events'::regclass AND c.relname ~ '_\\d{4}_\\d{2}$' ORDER BY c.relname LIMIT 1
""")
_LAST: Final = text("""
    SELECT e.tenant_id, e.seq, e.hash, e.recorded_at FROM audit_events e
    JOIN (SELECT tenant_id, max(seq) AS seq FROM audit_events
          WHERE recorded_at >= :opens AND recorded_at < :closes GROUP BY tenant_id) AS last USING (tenant_id, seq)
    WHERE e.recorded_at >= :opens AND e.recorded_at < :closes
""")
_MISSING: Final = text("""
    SELECT t FROM unnest(CAST(CAST(:tenants AS text[]) AS uuid[]), CAST(:seqs AS bigint[]), CAST(:hashes AS bytea[]))
         AS kept (t, s, h)
    JOIN audit_heads head ON head.tenant_id = t AND s > head.base_seq
    WHERE NOT EXISTS (SELECT FROM audit_events e WHERE e.tenant_id = t AND e.seq = s AND e.hash = h)
""")
_ADVANCE: Final = text("""
    UPDATE audit_heads AS head SET base_seq = b, mac = m
    FROM unnest(CAST(CAST(:tenants AS text[]) AS uuid[]), CAST(:bases AS bigint[]), CAST(:macs AS bytea[]))
         AS new (t, b, m)
    WHERE head.tenant_id = new.t
""")


class Retention:
    """Keeps so many full months of the log, and a head of every chain outside of Postgres.

    Guarantee: a month is dropped in one transaction with what stands for it: a signed checkpoint at each chain's last
    entry there, the heads that say where the chains begin now, and an event that it was done.
    """

    def __init__(self, settings: Settings, database: Database, redis: Redis) -> None:
        self._months = settings.audit_retention_months
        self._database = database
        self._heads = Heads(settings.root)
        self._sealer = HeadSealer(settings.root)
        self._anchors = Anchors(redis, self._sealer)

    async def run(self) -> None:
        """Look every hour, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            try:
                await self.run_once()
                await self.anchor()
            except (Unavailable, DBAPIError) as error:
                log.warning("old audit entries are looked for later", reason=str(error))

    async def run_once(self, now: datetime | None = None) -> list[date]:
        """Drop every month that is old enough, the oldest first; gives the months that went.

        Does nothing where another worker is at it, or where the log is being read for longer than a moment.

        Raises:
            Unavailable: Postgres is away.
        """
        dropped: list[date] = []
        while self._months:
            try:
                async with self._database.transaction(_SCOPE) as session:
                    month = await self._drop_oldest(session, now or utcnow())
            except DBAPIError as error:
                if sqlstate(error) != _LOCK_NOT_AVAILABLE:
                    raise
                return dropped
            if month is None:
                return dropped
            log.info("a month of the audit log was dropped", month=f"{month:%Y-%m}")
            dropped.append(month)
        return dropped

    async def anchor(self) -> None:
        """Keep every head in Redis too, where one put back in Postgres is betrayed by it."""

        async def read(session: AsyncSession) -> list[tuple[Head, bytes]]:
            return [
                (head_of(row), row.mac) for row in (await session.execute(text("SELECT * FROM audit_heads"))).all()
            ]

        found = await self._database.look(read, _LONG, scope=_SCOPE)
        good = [head for head, mac in found if self._sealer.holds(head, mac)]
        for start in range(0, len(good), _AT_ONCE):
            await self._anchor(good[start : start + _AT_ONCE])

    async def _anchor(self, heads: Sequence[Head]) -> None:
        """Keep these, but those whose chain does not have the entry that was kept before at its number."""
        kept = await asyncio.gather(*(self._anchors.get(head.tenant) for head in heads))
        before = [
            old
            for head, old in zip(heads, kept, strict=True)
            if old is not None and head.broken_at is None and old.seq < head.seq
        ]
        missing = await self._missing(before)
        if missing is None:
            missing = set()
            heads = [head for head in heads if head.tenant not in {old.tenant for old in before}]
        await asyncio.gather(
            *(self._anchors.doubt(tenant) for tenant in missing),
            *(self._anchors.keep(head) for head in heads if head.tenant not in missing),
        )

    async def _missing(self, heads: Sequence[Head]) -> set[str] | None:
        """Tenants whose chain does not have these heads' entries; None while a month is being dropped."""
        if not heads:
            return set()
        values = {
            "tenants": [head.tenant for head in heads],
            "seqs": [head.seq for head in heads],
            "hashes": [head.hash for head in heads],
        }

        async def read(session: AsyncSession) -> set[str] | None:
            if not await session.scalar(text("SELECT pg_try_advisory_xact_lock_shared(:key)"), {"key": _LOCK}):
                return None
            return {tenant.hex for tenant in await session.scalars(_MISSING, values)}

        return await self._database.look(read, _LONG, scope=_SCOPE)

    async def _drop_oldest(self, session: AsyncSession, now: datetime) -> date | None:
        await session.execute(text("SET LOCAL lock_timeout = '2s'"))
        if not await session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}):
            return None
        oldest = await session.scalar(_OLDEST)
        if oldest is None:
            return None
        year, month = map(int, oldest.split("_"))
        if _months_between(date(year, month, 1), now) <= self._months:
            return None
        await self._sign_off(session, date(year, month, 1))
        await session.execute(
            text("SELECT drop_audit_partition(:month, :keep)"), {"month": date(year, month, 1), "keep": self._months}
        )
        return date(year, month, 1)

    async def _sign_off(self, session: AsyncSession, month: date) -> None:
        """Sign where each chain stood at the end of the month, and have it begin there."""
        opens = datetime(month.year, month.month, 1, tzinfo=UTC)
        closes = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
        rows = (await session.execute(_LAST, {"opens": opens, "closes": closes})).all()
        last = {
            tenant.hex: Checkpoint(tenant.hex, seq, digest, microseconds(recorded), "retention")
            for tenant, seq, digest, recorded in rows
        }
        heads = await self._heads.lock(session, {*last, PLATFORM})
        based = [heads[tenant]._replace(base_seq=each.seq) for tenant, each in last.items()]
        if based:
            await self._heads.sign(session, last.values())
            await session.execute(
                _ADVANCE,
                {
                    "tenants": [head.tenant for head in based],
                    "bases": [head.base_seq for head in based],
                    "macs": [self._sealer.mac(head) for head in based],
                },
            )
        await self._heads.append(session, [_event(month, len(last))])


def _months_between(month: date, now: datetime) -> int:
    return (now.year - month.year) * 12 + now.month - month.month


def _event(month: date, chains: int) -> Event:
    return Event(
        PLATFORM, uuid7().hex, microseconds(utcnow()), "system", None, None, "audit.retention", f"{month:%Y-%m}",
        None, "ok", None, 0, 0, 0, None, None, None, None, {"chains": chains},
    )  # fmt: skip
