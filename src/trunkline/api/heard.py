"""What all pods hear, and what this one does about it: streams end, listeners are told, calls are not waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import Any

import structlog

from trunkline.api.auth import authorized
from trunkline.api.connections import Connections
from trunkline.api.events import KEY_REVOKED, TENANT_CHANGED
from trunkline.api.listen import Listeners
from trunkline.errors import Unavailable
from trunkline.streams.changes import LISTS, Changes
from trunkline.streams.control import (
    CallCancelled,
    Event,
    KeyRevoked,
    ListsChanged,
    ResourceUpdated,
    SigningKeysChanged,
    TenantChanged,
)
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.model import Tenant
from trunkline.tenants.verify import Verifier

log = structlog.get_logger(__name__)


class Heard:
    """Heeds the events of the control channel."""

    def __init__(
        self,
        connections: Connections,
        listeners: Listeners,
        changes: Changes,
        directory: TenantDirectory,
        verifier: Verifier,
        refresh: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._connections = connections
        self._listeners = listeners
        self._changes = changes
        self._directory = directory
        self._verifier = verifier
        self._refresh = refresh
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    def event(self, event: Event) -> None:
        """One event came."""
        match event:
            case KeyRevoked(key_id, at):
                self._verifier.revoke(key_id, at)
                left = max(at - self._verifier.now(), 0)
                asyncio.get_running_loop().call_later(left, self._end_streams_of_key, key_id)
            case TenantChanged(slug):
                self._directory.forget(slug)
                self._in_background(self._end_streams_of_tenant(slug))
            case SigningKeysChanged():
                self._in_background(self._refresh())
            case CallCancelled(call, session):
                stream = self._connections.get(session)
                if stream is not None:
                    stream.forget(call.encode())
            case ListsChanged("", lists, toolset, change):
                self._in_background(self._announce(toolset, lists, change))
            case ListsChanged(tenant_id, lists, _, change):
                self._listeners.lists_changed(tenant_id, lists, change)
            case ResourceUpdated("", uri, toolset, change):
                self._in_background(self._announce_update(toolset, uri, change))
            case ResourceUpdated(tenant_id, uri, _, change):
                self._listeners.updated(tenant_id, uri, change)

    def look_again(self) -> None:
        """Look at all streams whether they may be open still: what ends them may have been missed."""
        now = self._verifier.now()
        for stream in self._connections:
            until = self._verifier.good_until(stream.owner.principal, stream.kid)
            if until <= now:
                stream.end(KEY_REVOKED)
            elif until < stream.expires_at:  # the overlap of a rotation, of which this pod heard before it began
                stream.expires_at = until
        if self._looking is None or self._looking.done():
            self._looking = self._in_background(self._look_at_tenants())

    async def _look_at_tenants(self) -> None:
        for slug in {stream.slug for stream in self._connections}:
            await self._end_streams_of_tenant(slug)

    def _end_streams_of_key(self, key_id: str) -> None:
        for stream in self._connections:
            if stream.owner.principal == key_id:
                stream.end(KEY_REVOKED)

    async def _end_streams_of_tenant(self, slug: str) -> None:
        """End the streams of a tenant that is suspended, deleted or not public any more."""
        try:
            tenant = await self._directory.get(slug)
        except Unavailable:  # it is looked at again
            log.warning("tenant not looked at", tenant=slug)
            return
        for stream in self._connections:
            if stream.slug == slug and not authorized(tenant, stream.owner):
                stream.end(TENANT_CHANGED)

    async def _announce(self, toolset: str, lists: Collection[str], change: str) -> None:
        """Tell the tenants that have a toolset on that lists of it changed, as far as they are connected here."""
        changed = [each for each in LISTS if each in lists]
        async for tenant in self._tenants_with(toolset):
            with contextlib.suppress(Unavailable):
                await self._changes.announce(tenant.id, changed, change=change)

    async def _announce_update(self, toolset: str, uri: str, change: str) -> None:
        """Tell them that a resource of it was updated."""
        async for tenant in self._tenants_with(toolset):
            with contextlib.suppress(Unavailable):
                await self._changes.updated(tenant.id, uri, change=change)

    async def _tenants_with(self, toolset: str) -> AsyncIterator[Tenant]:
        for slug in {stream.slug for stream in self._connections}:
            try:
                tenant = await self._directory.get(slug)
            except Unavailable:
                log.warning("tenant not told", tenant=slug, toolset=toolset)
                continue
            if tenant is not None and toolset in tenant.enabled_toolsets:
                yield tenant

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(_guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _guard(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # the edge of a side task: the next event is heeded all the same
        log.exception("event not heeded")
