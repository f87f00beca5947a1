"""Following a tenant's log as it grows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from trunkline.audit.chain import Entry
from trunkline.audit.query import after, standing
from trunkline.db import Database
from trunkline.errors import TooManyRequests, Unavailable
from trunkline.streams.audit_tail import TailSignals
from trunkline.streams.client import Redis

MOST_TAILS: Final = 5
"""Of one tenant, on each pod."""
KEEP_ALIVE: Final = 15.0
"""Seconds after which a tail gives a sign of life."""
_AT_ONCE: Final = 100
"""Entries in one read."""
_LOOK_EVERY: Final = 3.0
"""Seconds between looks into Postgres where no signal comes: events of the control plane give none, and signals may
be lost."""


class Tail:
    """Gives entries of tenants' logs as they are recorded.

    Guarantee: the entries after a number come in order, each once, none left out: they are read from Postgres by
    number, and what Redis says only hastens that.
    """

    def __init__(self, redis: Redis, database: Database) -> None:
        self._signals = TailSignals(redis)
        self._database = database
        self._open: Counter[str] = Counter()
        self._draining = asyncio.Event()

    def check(self, tenant_id: str) -> None:
        """Refuse what `entries` would refuse, before an answer has begun.

        Raises:
            TooManyRequests: the tenant has `MOST_TAILS` on this pod.
            Unavailable: the pod is draining.
        """
        if self._draining.is_set():
            raise Unavailable("This pod is stopping; connect again.", retry_after=1)
        if self._open[tenant_id] >= MOST_TAILS:
            raise TooManyRequests(f"At most {MOST_TAILS} tails of one log at a time; end another one.", retry_after=5)

    def drain(self) -> None:
        """End all tails, and give no more: their clients go on elsewhere."""
        self._draining.set()

    async def entries(self, tenant_id: str, after_seq: int | None = None) -> AsyncIterator[Entry | None]:
        """The entries after number `after_seq`, or from now on; None as a sign of life when none come for a while.

        Close it (`contextlib.aclosing`): by itself it ends only when the pod drains.

        Raises:
            TooManyRequests, Unavailable: as from `check`, or Postgres is away.
        """
        self.check(tenant_id)
        self._open[tenant_id] += 1
        try:
            async with self._signals.listening(tenant_id) as signal:
                seq = await self._newest(tenant_id) if after_seq is None else after_seq
                quiet_since = asyncio.get_running_loop().time()
                while not self._draining.is_set():
                    signal.clear()
                    found = await after(self._database, tenant_id, seq, _AT_ONCE)
                    for entry in found:
                        seq = entry.seq
                        yield entry
                    now = asyncio.get_running_loop().time()
                    if found:
                        quiet_since = now
                    elif now - quiet_since >= KEEP_ALIVE:
                        quiet_since = now
                        yield None
                    if len(found) < _AT_ONCE:
                        await self._wait(signal)
        finally:
            self._open[tenant_id] -= 1
            self._open += Counter()  # forget tenants without any

    async def _newest(self, tenant_id: str) -> int:
        found = await standing(self._database, tenant_id)
        return found.head.seq if found else 0

    async def aclose(self) -> None:
        """Stop listening."""
        self.drain()
        await self._signals.aclose()

    async def _wait(self, signal: asyncio.Event) -> None:
        waits = [asyncio.create_task(signal.wait()), asyncio.create_task(self._draining.wait())]
        try:
            await asyncio.wait(waits, timeout=_LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
