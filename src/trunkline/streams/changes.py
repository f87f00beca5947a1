"""What changed at a tenant's servers, for whoever wants to know: its sessions, and the listeners on every pod.

A session is told in its own stream, so that it hears of a change even if it has no connection open at the moment.
Listeners (`subscriptions/listen`, 2026-07-28) are told by the control channel; they take up what they may have missed
by themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

import orjson

from trunkline.envelope import Call
from trunkline.streams.client import Redis
from trunkline.streams.connection import Argument
from trunkline.streams.control import ListsChanged, ResourceUpdated, announce

List = Literal["tools", "prompts", "resources"]
LISTS: tuple[List, ...] = get_args(List)
_MOST_SUBSCRIPTIONS = 1_000
"""Resources that one session may subscribe to."""


class Changes:
    """Tells of changes, and remembers which session wants to hear of which resource.

    Raises, from every function:
        Unavailable: Redis is away; some may have been told.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        settings = redis.settings
        self._limits = (settings.outbox_max_messages, settings.outbox_max_bytes, settings.outbox_ttl * 1000)
        self._lifetime_ms = settings.session_ttl * 1000

    async def announce(self, tenant_id: str, lists: Collection[List], *, change: str = "") -> None:
        """Tell everyone at a tenant that lists have changed (specification, `notifications/*/list_changed`).

        A session is told of those lists whose changes it was promised to hear of. Where several processes announce
        one change, they name it by the same `change`, and one of them does.
        """
        messages: list[Argument] = []
        for each in LISTS:
            if each in lists:
                messages += (each, _notification(f"notifications/{each}/list_changed"))
        keys = self._redis.keys
        await self._broadcast(tenant_id, keys.tenant(tenant_id).sessions, change, "", messages)
        await announce(self._redis, ListsChanged(tenant_id, sorted(lists), change=change))

    async def announce_toolset(self, toolset: str, lists: Collection[List], change: str) -> None:
        """Tell all pods that a toolset has changed, for every tenant; they announce it to those that they serve."""
        await announce(self._redis, ListsChanged("", sorted(lists), toolset, change))

    async def updated(self, tenant_id: str, uri: str, *, change: str = "") -> None:
        """Tell who has subscribed to a resource that it was updated (`notifications/resources/updated`)."""
        message = _notification("notifications/resources/updated", {"uri": uri})
        subscribers = self._redis.keys.tenant(tenant_id).subscribers
        await self._broadcast(tenant_id, subscribers, change, uri, ["", message])
        await announce(self._redis, ResourceUpdated(tenant_id, uri, change=change))

    async def updated_toolset(self, toolset: str, uri: str, change: str) -> None:
        """Tell all pods that a resource of a toolset was updated, for every tenant; see `announce_toolset`."""
        await announce(self._redis, ResourceUpdated("", uri, toolset, change))

    async def _broadcast(
        self, tenant_id: str, whom: str, change: str, uri: str, messages: Sequence[Argument]
    ) -> None:
        keys = self._redis.keys
        tenant = keys.tenant(tenant_id)
        cursor = b"0"
        while True:
            cursor = await self._redis.script(
                "broadcast",
                [whom, keys.told(tenant_id, change)],
                [cursor, f"{tenant.base}s:", tenant.pods, *self._limits, "b.0", change, uri, *messages],
            )
            if cursor == b"0":
                return

    async def subscribe(self, call: Call, uri: str) -> bool:
        """Remember that the session of a call wants to hear of a resource; False where it may not."""
        keys = self._redis.keys
        names = [
            keys.stream(call.tenant, call.session)[0],
            keys.subscriptions(call.tenant, call.session),
            keys.tenant(call.tenant).subscribers,
        ]
        args: list[Argument] = [call.session, uri, self._lifetime_ms, _MOST_SUBSCRIPTIONS]
        return bool(await self._redis.script("subscribe", names, args))

    async def unsubscribe(self, call: Call, uri: str) -> None:
        """Forget that."""
        await self._redis.command("SREM", self._redis.keys.subscriptions(call.tenant, call.session), uri)


def _notification(method: str, params: dict[str, str] | None = None) -> bytes:
    message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return orjson.dumps(message)
