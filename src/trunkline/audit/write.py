"""Writes audit events from the lanes' streams to Postgres: read at least once, one row each."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Final, Protocol

import structlog
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from trunkline.audit.arrived import read_event
from trunkline.audit.chain import Event
from trunkline.audit.heads import Grown, Heads
from trunkline.audit.models import ensure_partitions
from trunkline.db import Database, sqlstate, task_scope
from trunkline.errors import Unavailable
from trunkline.metrics import Metrics
from trunkline.streams.audit import EVENT_LINES, AuditEntry

log = structlog.get_logger("trunkline.audit")

BATCH: Final = 2_000
"""Events in one transaction, whose round trips cost as much CPU as 600 events do."""
_SHARE: Final = 250
"""Events that are read without letting others run: a millisecond."""
READ: Final = 8_000
"""Events in hand at once, about 3 MB, or all that the feed reads at once."""
BLOCK_MS: Final = 1_000
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between tries while a store is away, before jitter."""
PARTITIONS_EVERY: Final = 6 * 3600.0
"""Seconds between looks at whether the coming months have their partitions."""
PARTITIONS_AGAIN: Final = 300.0
"""Seconds until that is tried again where it failed; meanwhile the default partition takes what has no other."""
_PATIENCE: Final = text("SELECT set_config('lock_timeout', '1s', true)")
"""A partition takes a lock that whoever reads the log holds; while it is waited for, nobody else writes."""

_SCOPE: Final = task_scope("audit")
_BAD_DATA: Final = ("22", "23")
"""SQLSTATE classes that blame the event itself: data exception, integrity violation."""


class Feed(Protocol):
    """Where events come from; `trunkline.streams.audit.AuditFeed` keeps them until they are acknowledged."""

    async def read(self, limit: int, block_ms: int) -> list[AuditEntry]:
        """Entries with about `limit` events or all there are, waiting up to `block_ms` for the first."""

    async def hurry(self) -> None:
        """Wait for no more events: a `read` that does comes back, and no other begins to."""

    async def ack(self, entries: Sequence[AuditEntry]) -> None:
        """Forget these, with all their events."""


class AuditWriter:
    """One of any number of writers that share the work.

    Guarantees: an event is acknowledged only after its row is committed, so none is lost while Postgres or Redis
    is away; an event read twice is one row, because its id comes from where it happened and is looked for under the
    lock of its chain. What is no event is logged and dropped, and holds nothing up.
    """

    def __init__(
        self,
        feed: Feed,
        database: Database,
        metrics: Metrics,
        root: SecretStr,
        *,
        grew: Callable[[Sequence[Grown]], Awaitable[Collection[str]]] | None = None,
        linger: float = 0.5,
        drain: float = 5.0,
    ) -> None:
        self._feed = feed
        self._heads = Heads(root)
        self._grew = grew
        """Told, after a batch, which chains have grown; tells of which there is doubt."""
        self._database = database
        self._metrics = metrics
        self._linger = linger
        """Seconds to let events gather, so that a call does not cost a transaction."""
        self._drain = drain
        """Seconds that `stop` leaves for what waits already."""
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._partitions_due = 0.0
        self._away_since: float | None = None
        self._pause = FIRST_PAUSE

    async def stop(self) -> None:
        """Have `run` write what waits already and return; takes `drain` seconds at most."""
        self._stopping.set()
        await self._ended.wait()

    async def run(self) -> None:
        """Write events until `stop`. What is left then is read by another writer, or by the next process."""
        self._ended.clear()
        loop = asyncio.create_task(self._loop())
        stopping = asyncio.create_task(self._stopping.wait())
        hurrying = asyncio.create_task(self._hurry_at_stop())
        try:
            await asyncio.wait({loop, stopping}, return_when=asyncio.FIRST_COMPLETED)
            _, late = await asyncio.wait({loop}, timeout=self._drain)
            if late:
                log.warning("audit events are left to other writers")
            else:
                loop.result()
        finally:
            for task in (loop, stopping, hurrying):
                task.cancel()
            await asyncio.gather(loop, stopping, hurrying, return_exceptions=True)
            self._ended.set()

    async def _hurry_at_stop(self) -> None:
        await self._stopping.wait()
        await self._feed.hurry()

    async def _loop(self) -> None:
        while not self._stopping.is_set():
            entries = await self._read(BLOCK_MS)
            await self._write(entries)
            if 0 < sum(entry.events for entry in entries) < BATCH:
                await self._rest(self._linger)
        while entries := await self._read(1):
            if not await self._write(entries):
                return

    async def _read(self, block_ms: int) -> list[AuditEntry]:
        started = time.monotonic()
        with contextlib.suppress(Unavailable):
            if entries := await self._feed.read(READ, block_ms):
                return entries
        if time.monotonic() - started < block_ms / 2000:
            # Nothing, sooner than nothing could be known: Redis is away.
            await self._rest(random.uniform(0.5, 1.0) * block_ms / 1000)  # noqa: S311 - jitter
        return []

    async def _write(self, entries: Sequence[AuditEntry]) -> bool:
        """Write all of them, however long the stores are away; False when stopped before that."""
        for batch in _batches(entries):
            while not await self._written(batch):
                if self._stopping.is_set():
                    return False
                await self._rest(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return True

    async def _written(self, batch: Sequence[AuditEntry]) -> bool:
        try:
            await self._prepare_partitions()
            grown = await self._insert(await self._events(batch))
        except (Unavailable, DBAPIError) as error:
            self._note_outage(error)
            return False
        self._note_recovery()
        # Should Redis be away now, the events are read and written again, to no effect.
        with contextlib.suppress(Unavailable):
            await self._feed.ack(batch)
        if grown and self._grew is not None:
            for tenant in await self._grew(grown):
                self._heads.doubt(tenant)
        return True

    async def _prepare_partitions(self) -> None:
        if time.monotonic() < self._partitions_due:
            return
        every = PARTITIONS_EVERY
        try:
            async with self._database.transaction(_SCOPE) as session:
                await session.execute(_PATIENCE)
                await ensure_partitions(session)
        except DBAPIError as error:
            log.warning("the audit log has no new partitions yet", reason=str(error.orig))
            every = PARTITIONS_AGAIN
        self._partitions_due = time.monotonic() + every

    async def _events(self, batch: Sequence[AuditEntry]) -> list[Event]:
        """The events of a batch; what is none is set aside."""
        events: list[Event] = []
        for entry in batch:
            lines = entry.lines
            if len(lines) % EVENT_LINES:
                self._set_aside(lines, f"{len(lines)} lines are no events")
                continue
            for start in range(0, len(lines), EVENT_LINES):
                try:
                    events.append(read_event(lines[start : start + EVENT_LINES]))
                    if len(events) % _SHARE == 0:
                        await asyncio.sleep(0)
                except (ValueError, TypeError) as error:
                    self._set_aside(lines[start : start + EVENT_LINES], repr(error))
        return events

    async def _insert(self, events: Sequence[Event]) -> list[Grown]:
        """Write events and set aside what Postgres does not take, halving them until that is found."""
        if not events:
            return []
        started = time.perf_counter()
        try:
            async with self._database.transaction(_SCOPE) as session:
                appended = await self._heads.append(session, events)
        except (DBAPIError, TypeError) as error:
            if isinstance(error, DBAPIError) and not sqlstate(error).startswith(_BAD_DATA):
                raise
            if len(events) == 1:
                self._set_aside(events, str(error.orig) if isinstance(error, DBAPIError) else repr(error))
                return []
            middle = len(events) // 2
            return await self._insert(events[:middle]) + await self._insert(events[middle:])
        self._metrics.audit_written_total.inc(len(events))
        self._metrics.audit_broken_heads_total.inc(appended.broken)
        self._metrics.audit_write_seconds.observe(time.perf_counter() - started)
        return list(appended.grown)

    def _set_aside(self, what: Sequence[object], reason: str) -> None:
        self._metrics.audit_set_aside_total.inc()
        log.error("what is no audit event is dropped", lines=repr(what)[:2_000], reason=reason)

    def _note_outage(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("audit events wait for Postgres", reason=str(error))

    def _note_recovery(self) -> None:
        self._pause = FIRST_PAUSE
        if self._away_since is not None:
            log.info("audit events are written again", away_s=round(time.monotonic() - self._away_since, 1))
            self._away_since = None

    async def _rest(self, seconds: float) -> None:
        """Wait, unless `stop` comes first."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _batches(entries: Sequence[AuditEntry]) -> Iterator[list[AuditEntry]]:
    """The entries, so many together that they have a batch of events."""
    batch: list[AuditEntry] = []
    count = 0
    for entry in entries:
        batch.append(entry)
        count += entry.events
        if count >= BATCH:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch
