"""What hosted servers announce, on its way to the clients of a tenant, or of all that have the toolset on."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict

import structlog

from trunkline import current_tenant
from trunkline.errors import Unavailable
from trunkline.streams.changes import Changes
from trunkline.streams.connection import RedisRefusal
from trunkline.toolsets.changes import Change

_GATHER = 0.01
"""Seconds for which changes gather: a server that announces one in both eras' ways means one."""
_MOST = 10_000
"""Changes that may wait to be told; a server that announces faster than Redis takes them loses some."""

_LAST = 3.0
"""Seconds that a worker that ends has for what is due; nobody else waits for it."""

log = structlog.get_logger(__name__)


class Announcements:
    """Tells of changes in the background: a change that is announced again before it was told is told once.

    Best effort, as the SDK's own: one that cannot be told for a while, Redis being away, is dropped with a log line.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._due: defaultdict[tuple[str, str], set[Change]] = defaultdict(set)
        """By tenant, or by toolset where it concerns all tenants."""
        self._telling: asyncio.Task[None] | None = None
        self._closed = False

    def heard(self, toolset: str, change: Change) -> None:
        """A toolset announced a change: for the tenant whose call announced it, else for all that have it on."""
        tenant = current_tenant()
        self._add("" if tenant else toolset, tenant.id if tenant else "", change)

    def tell(self, tenant_id: str, change: Change) -> None:
        """Tell the clients of one tenant."""
        self._add("", tenant_id, change)

    async def aclose(self) -> None:
        """Tell what is due, within a few seconds; what is announced from now on is dropped."""
        self._closed = True
        if self._telling is None:
            return
        try:
            await asyncio.wait_for(self._telling, _LAST)
        except TimeoutError:
            log.warning("changes not told", reason="the worker ends")

    def _add(self, toolset: str, tenant_id: str, change: Change) -> None:
        if self._closed:
            return
        if sum(map(len, self._due.values())) >= _MOST:
            log.warning("change not told: too many wait", toolset=toolset, tenant=tenant_id)
            return
        self._due[toolset, tenant_id].add(change)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        while self._due:
            await asyncio.sleep(_GATHER)
            due, self._due = self._due, defaultdict(set)
            for (toolset, tenant_id), changes in due.items():
                try:
                    await self._tell(toolset, tenant_id, changes)
                except (Unavailable, RedisRefusal) as error:
                    log.warning("changes not told", toolset=toolset, tenant=tenant_id, reason=str(error))

    async def _tell(self, toolset: str, tenant_id: str, changes: set[Change]) -> None:
        lists = [change.kind for change in changes if change.kind is not None]
        if toolset:
            if lists:
                await self._changes.announce_toolset(toolset, lists, secrets.token_hex(8))
            for change in changes:
                if change.uri:
                    await self._changes.updated_toolset(toolset, change.uri, secrets.token_hex(8))
            return
        if lists:
            await self._changes.announce(tenant_id, lists)
        for change in changes:
            if change.uri:
                await self._changes.updated(tenant_id, change.uri)
