"""What a hosted server announces while it lives: a list of its own that changed, or a resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import ListenHandler, SubscriptionBus
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
    event_from_wire,
)

from trunkline.streams.changes import LISTS, List

_KINDS: dict[type[ServerEvent], List] = {
    ToolsListChanged: "tools",
    PromptsListChanged: "prompts",
    ResourcesListChanged: "resources",
}


class Change(NamedTuple):
    """Something that clients may have read and should read again."""

    kind: List | None
    """The list that changed; None where it is a resource."""
    uri: str = ""
    """The resource that changed."""


Listener = Callable[[str, Change], None]
"""Hears which toolset announced what, in the context of the code that announced it; must not raise."""


def change_of(event: ServerEvent) -> Change:
    """An event of a server's `SubscriptionBus` as a change."""
    return Change(None, event.uri) if isinstance(event, ResourceUpdated) else Change(_KINDS[type(event)])


def change_in(method: str, params: Mapping[str, Any] | None) -> Change | None:
    """The change that a notification tells of; None where it is about something else."""
    event = event_from_wire(method, params)
    return None if event is None else change_of(event)


def bus_of(server: Server[Any] | MCPServer[Any]) -> SubscriptionBus | None:
    """Where a server publishes its changes for `subscriptions/listen`; None for one that has no such place."""
    if isinstance(server, MCPServer):
        return server._subscriptions  # noqa: SLF001 - its handler may be switched off, this is there all the same
    listening = server.get_request_handler("subscriptions/listen")
    if listening is None or not isinstance(listening.handler, ListenHandler):
        return None
    return listening.handler._bus  # noqa: SLF001 - the only place where it is


def declare(capabilities: dict[str, Any], *, stateless: bool) -> list[List]:
    """Say in a server's capabilities that clients are told of changed lists; which lists it has.

    A stateless client subscribes to resources by `subscriptions/listen`, which is served for every server.
    """
    lists = [kind for kind in LISTS if isinstance(capabilities.get(kind), dict)]
    for kind in lists:
        capabilities[kind]["listChanged"] = True
    if stateless and "resources" in lists:
        capabilities["resources"]["subscribe"] = True
    return lists
