"""`subscriptions/listen` of revision 2026-07-28: a stream that tells of changes, until either side ends it.

It needs no worker: what changes is told to all pods. Nothing is kept for a client that was away; it asks anew. Where
this pod may have missed something itself, it says that all may have changed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from mcp_types import SubscriptionsListenRequestParams
from pydantic import ValidationError

from trunkline.api.auth import Identity
from trunkline.api.connection import Protocol
from trunkline.api.connections import Connections
from trunkline.api.events import EventStream, event
from trunkline.api.http import Request
from trunkline.api.messages import Message
from trunkline.api.streaming import Streaming
from trunkline.errors import InvalidParams, TooManyListeners
from trunkline.settings import Settings

METHOD = "subscriptions/listen"
_MOST_RESOURCES = 1_000
"""What one stream may name: it stays in memory for hours."""
_REMEMBERED = 64
"""Changes that several pods announce within moments of each other."""
_SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
_LISTS = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}


class Listening(EventStream):
    """One stream, and what it tells of."""

    __slots__ = ("_begun", "_id", "lists", "resources")

    def __init__(
        self, identity: Identity, request_id: bytes, wanted: dict[str, Any], protocol: Protocol, settings: Settings
    ) -> None:
        super().__init__(identity, protocol, settings)
        self._begun = False
        self._id = orjson.Fragment(request_id)
        self.lists = frozenset(name for name, key in _LISTS.items() if wanted.get(key))
        self.resources = frozenset(wanted.get("resourceSubscriptions") or ())

    def acknowledgement(self) -> bytes:
        """The first event: what of the client's wishes is heeded, which is all that there is."""
        notifications: dict[str, Any] = {key: True for name, key in _LISTS.items() if name in self.lists}
        if self.resources:
            notifications["resourceSubscriptions"] = sorted(self.resources)
        return self._notification("notifications/subscriptions/acknowledged", {"notifications": notifications})

    def begin(self, greeting: bytes) -> None:
        """Write the acknowledgement; what changed before is no concern of this stream."""
        self._begun = True
        super().begin(greeting)

    def write(self, event: bytes) -> None:
        """Send an event, if the stream has begun."""
        if self._begun:
            super().write(event)

    def lists_changed(self, lists: Iterable[str]) -> None:
        """Tell of those of the lists that the client wants to hear of."""
        for name in lists:
            if name in self.lists:
                self.write(self._notification(f"notifications/{name}/list_changed", {}))

    def updated(self, uri: str) -> None:
        """Tell of a resource, if the client wants to hear of it."""
        if uri in self.resources:
            self.write(self._notification("notifications/resources/updated", {"uri": uri}))

    def changed(self) -> None:
        """Tell that all may have changed: something may have been missed."""
        self.lists_changed(_LISTS)
        for uri in sorted(self.resources):
            self.updated(uri)

    def farewell(self) -> bytes:
        """The answer to the request, as the end of the stream."""
        result = {"resultType": "complete", "_meta": {_SUBSCRIPTION_ID: self._id}}
        return event(orjson.dumps({"jsonrpc": "2.0", "id": self._id, "result": result}))

    def _notification(self, method: str, params: dict[str, Any]) -> bytes:
        params["_meta"] = {_SUBSCRIPTION_ID: self._id}
        return event(orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}))


class Listeners:
    """The listening streams of this pod."""

    def __init__(self, streaming: Streaming, connections: Connections) -> None:
        self._streaming = streaming
        self._connections = connections
        self._most = streaming.settings.tenant_listeners
        self._count: Counter[str] = Counter()
        self._told: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)

    async def serve(self, request: Request, identity: Identity, message: Message) -> None:
        """Open a stream and hold it until the client leaves or the stream is ended.

        Raises:
            InvalidParams: it does not say what the client wants to hear of.
            TooManyRequests: the tenant asks for streams faster than it may.
            TooManyListeners: the tenant has as many on this pod as it may have.
            Draining: this pod is stopping.
        """
        self._streaming.check_rate(identity)
        await self._streaming.check_open(identity)
        wanted = _wishes(message)
        tenant = identity.tenant.id
        if self._count[tenant] >= self._most:
            raise TooManyListeners(retry_after=1)
        stream = Listening(identity, message.id, wanted, request.protocol, self._streaming.settings)
        self._count[tenant] += 1
        self._connections.listening.add(stream)
        try:
            await self._streaming.hold(request, stream, stream.acknowledgement())
        finally:
            self._connections.listening.discard(stream)
            self._count[tenant] -= 1
            if not self._count[tenant]:
                del self._count[tenant]

    def lists_changed(self, tenant_id: str, lists: Iterable[str], change: str = "") -> None:
        """Lists of a tenant's servers changed; several pods may say so of one change, which they name then."""
        if self._is_new(tenant_id, change):
            for stream in self._of(tenant_id):
                stream.lists_changed(lists)

    def updated(self, tenant_id: str, uri: str, change: str = "") -> None:
        """A resource of a tenant's servers was updated; as above."""
        if self._is_new(tenant_id, change):
            for stream in self._of(tenant_id):
                stream.updated(uri)

    def _is_new(self, tenant_id: str, change: str) -> bool:
        if not change:
            return True
        if (tenant_id, change) in self._told:
            return False
        self._told.append((tenant_id, change))
        return True

    def missed(self) -> None:
        """This pod could not listen for a while."""
        for stream in self._connections.listening:
            if isinstance(stream, Listening):
                stream.changed()

    def _of(self, tenant_id: str) -> Iterator[Listening]:
        if self._count[tenant_id]:
            for stream in list(self._connections.listening):
                if isinstance(stream, Listening) and stream.owner.tenant == tenant_id:
                    yield stream


def _wishes(message: Message) -> dict[str, Any]:
    try:
        params = SubscriptionsListenRequestParams.model_validate(message.params)
    except ValidationError:
        raise InvalidParams("subscriptions/listen names what to tell of in its notifications.") from None
    wanted = params.notifications.model_dump(by_alias=True)
    if len(wanted.get("resourceSubscriptions") or ()) > _MOST_RESOURCES:
        raise InvalidParams(f"subscriptions/listen names at most {_MOST_RESOURCES} resources.")
    return wanted
