"""Tenants as a pod knows them: from its memory, then from Redis, then from Postgres, with any two of them away."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from trunkline.db import LOOK_TIMEOUT, Database, task_scope
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.tenants import snapshot as snapshots_of
from trunkline.tenants.announce import TENANT
from trunkline.tenants.model import Tenant, is_label
from trunkline.tenants.tenants import load_snapshot

FRESH = 30.0
"""Seconds for which a tenant is served from memory without a look: changes are announced."""
PATIENT = 60.0
"""Seconds up to which one that is no longer fresh is served at once, while a look goes on beside."""
STALE = 900.0
"""Seconds for which one is served while neither store answers."""
CONFIRM = 300.0
"""Seconds after which the look goes to Postgres first: so long may a change go unseen that Redis missed."""
CONFIRM_PATIENCE = 0.5
"""Seconds that such a look waits for Postgres before it takes what Redis has."""
UNKNOWN = 5.0
"""Seconds for which a name is known to be nobody's."""
MOST_TENANTS = 20_000
MOST_UNKNOWN = 20_000
RETRY = 2.0
"""Seconds between two looks for a tenant while the stores are away."""
MOST_WAITING = 256
"""Names that may wait for Postgres; beyond it 503. Tenants in use are in Redis, so these are mostly nobody's."""
_AT_ONCE = 4
"""Names that are looked up in Postgres at once."""


class SnapshotStore(Protocol):
    """What the directory needs of `trunkline.streams.snapshots.Snapshots`."""

    async def get(self, kind: str, name: str) -> bytes | None:
        """The newest copy of a record, if there is one."""

    async def put(self, kind: str, name: str, version: int, value: bytes) -> None:
        """Keep `value` unless a newer version is there."""


class Missing:
    """The type of `MISSING`."""

    __slots__ = ()


MISSING: Final = Missing()
"""Memory cannot tell; ask the stores."""


@dataclass(slots=True)
class _Entry:
    tenant: Tenant
    looked_at: float
    """When a store last gave it; all times are monotonic seconds."""
    confirmed_at: float
    """When Postgres last gave it, or Redis first did."""
    fresh_until: float
    patient_until: float
    """Until then nobody waits for a look; while the stores are away that is as long as it may be served."""
    retry_at: float = float("-inf")
    announced: bool = False
    """Whether a change was announced, which Redis has then: it is asked first, as it answers at once."""


@dataclass(frozen=True, slots=True)
class _Found:
    tenant: Tenant | None
    confirmed: bool


class TenantDirectory:
    """Who is called what. Bounded in memory; one look per name at a time, however many ask."""

    def __init__(
        self,
        database: Database | None,
        snapshots: SnapshotStore,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._defaults = snapshots_of.default_limits(settings)
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._looks: dict[str, asyncio.Task[Tenant | None]] = {}
        self._postgres = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    def peek(self, slug: str) -> Tenant | Missing | None:
        """The tenant, or None for a name that is nobody's, or `MISSING` where only `get` can tell."""
        entry = self._entries.get(slug)
        if entry is not None:
            return entry.tenant if self._clock() < entry.fresh_until else MISSING
        until = self._unknown.get(slug)
        return None if until is not None and self._clock() < until else MISSING

    async def get(self, slug: str) -> Tenant | None:
        """The tenant, or None if there is none of that name.

        Raises:
            Unavailable: neither store answers, and memory has no copy that is young enough.
        """
        known = self.peek(slug)
        if not isinstance(known, Missing):
            return known
        if not is_label(slug):
            return None
        entry = self._entries.get(slug)
        if entry is None:
            return await self._look(slug)
        self._entries.move_to_end(slug)
        if self._clock() < entry.patient_until:
            if self._clock() >= entry.retry_at:
                self._start_look(slug)
            return entry.tenant
        try:
            return await self._look(slug)
        except Unavailable:
            if self._clock() - entry.looked_at < STALE:
                return entry.tenant
            raise

    def forget(self, slug: str, *, announced: bool = True) -> None:
        """Look before serving it again, because it changed; while no store answers the old copy is served still."""
        self._unknown.pop(slug, None)
        self._looks.pop(slug, None)  # what is under way may have read the state before
        entry = self._entries.get(slug)
        if entry is not None:
            entry.fresh_until = entry.patient_until = float("-inf")
            entry.announced = announced

    def forget_all(self) -> None:
        """Like `forget`, of every name: for a pod that may have missed announcements."""
        for slug in (*self._entries, *self._unknown):
            self.forget(slug, announced=False)

    async def aclose(self) -> None:
        """End the looks that are under way."""
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _look(self, slug: str) -> Tenant | None:
        # Shielded: the one who asked first may go away, the others wait for the same answer.
        return await asyncio.shield(self._start_look(slug))

    def _start_look(self, slug: str) -> asyncio.Task[Tenant | None]:
        look = self._looks.get(slug)
        if look is None:
            look = asyncio.create_task(self._load(slug), name=f"look up tenant {slug}")
            self._looks[slug] = look
            look.add_done_callback(lambda done: self._looked(slug, done))
        return look

    def _looked(self, slug: str, look: asyncio.Task[Tenant | None]) -> None:
        if self._looks.get(slug) is look:
            del self._looks[slug]
        if not look.cancelled():
            look.exception()  # nobody may be waiting for it, and then it is no news

    async def _load(self, slug: str) -> Tenant | None:
        entry = self._entries.get(slug)
        began = self._clock()
        look = asyncio.current_task()
        try:
            due = entry is not None and not entry.announced and began - entry.confirmed_at >= CONFIRM
            found = await self._find(slug, confirm=due)
        except Unavailable:
            if entry is not None:
                entry.patient_until, entry.retry_at = entry.looked_at + STALE, self._clock() + RETRY
            raise
        if self._looks.get(slug) is look:
            self._remember(slug, found, began)
        return found.tenant

    async def _find(self, slug: str, *, confirm: bool) -> _Found:
        """Ask both stores in turn until one knows. A missing snapshot alone does not mean a missing tenant."""
        if confirm and self._database is not None:
            try:
                stored = await self._from_postgres(slug, self._database, CONFIRM_PATIENCE)
            except Unavailable:
                return await self._from_redis(slug) or self._nowhere()
            return await self._newer(slug, stored)
        try:
            found = await self._from_redis(slug)
        except Unavailable:
            if self._database is None:
                raise
            found = None
        if found is not None:
            return found
        if self._database is None:
            return self._nowhere()
        return await self._from_postgres(slug, self._database, LOOK_TIMEOUT)

    async def _newer(self, slug: str, stored: _Found) -> _Found:
        """What Redis has where that is newer than Postgres: it was suspended while Postgres was away."""
        with suppress(Unavailable):
            copy = await self._from_redis(slug)
            if copy is not None and copy.tenant and stored.tenant and copy.tenant.version > stored.tenant.version:
                return copy
        return stored

    def _nowhere(self) -> _Found:
        raise Unavailable("Nothing is known of this tenant while Postgres is away; try again later.", retry_after=2)

    async def _from_redis(self, slug: str) -> _Found | None:
        stored = await self._snapshots.get(TENANT, slug)
        return None if stored is None else _Found(snapshots_of.decode(stored, self._defaults), confirmed=False)

    async def _from_postgres(self, slug: str, database: Database, patience: float) -> _Found:
        if self._waiting >= MOST_WAITING:
            raise Unavailable("Too many unknown tenants are asked for; try again later.", retry_after=1)
        self._waiting += 1
        try:
            async with asyncio.timeout(patience), self._postgres:
                stored = await database.look(
                    lambda session: load_snapshot(session, slug), patience, scope=task_scope("directory")
                )
        except TimeoutError as error:
            raise Unavailable("Postgres does not answer; try again later.", retry_after=2) from error
        finally:
            self._waiting -= 1
        tenant = None if stored is None else snapshots_of.decode(stored, self._defaults)
        await self._keep(slug, tenant, stored)
        return _Found(tenant, confirmed=True)

    async def _keep(self, slug: str, tenant: Tenant | None, stored: bytes | None) -> None:
        """Put what Postgres has into Redis, for pods that find Postgres away; the next look repairs a failure."""
        entry = self._entries.get(slug)
        try:
            if tenant is not None and stored is not None:
                await self._snapshots.put(TENANT, slug, tenant.version, stored)
            elif entry is not None:
                await self._snapshots.put(TENANT, slug, entry.tenant.version + 1, snapshots_of.TOMBSTONE)
        except Unavailable:
            return

    def _remember(self, slug: str, found: _Found, began: float) -> None:
        """Keep what a look that began then has found."""
        known = self._entries.pop(slug, None)
        if found.tenant is None:
            self._unknown[slug] = began + UNKNOWN
            self._unknown.move_to_end(slug)
            if len(self._unknown) > MOST_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        self._unknown.pop(slug, None)
        confirmed_at = began if found.confirmed or known is None else known.confirmed_at
        self._entries[slug] = _Entry(found.tenant, began, confirmed_at, began + FRESH, began + PATIENT)
        if len(self._entries) > MOST_TENANTS:
            self._entries.popitem(last=False)
