"""Trunkline hosts MCP servers for many tenants: any pod serves any request, and no answer is lost or given twice.

A message passes seven stations; logs, metrics and tests use their names:

1. accept   `api/accept.py`         authenticate, limit, parse the JSON-RPC envelope; `api/` has a file per transport
2. enqueue  `streams/calls.py`      `accept.lua`: check session and limits, record as pending, append to the lane
3. claim    `worker/consumer.py`    read the lanes, only as much as there are free slots for
4. execute  `worker/executor.py`    run it through the tenant's `mcp` `Server`
5. publish  `streams/outbox.py`     `publish.lua`: still pending? append to the outbox, publish, forget, acknowledge
6. forward  `api/forwarder.py`      receive from Redis, fill gaps from the outbox
7. deliver  `api/streaming.py`      write the SSE event, whose `id:` is the outbox offset, or finish the POST
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

__version__ = "0.1.0"

__all__ = ["CurrentTenant", "NotConfigured", "__version__", "current_config", "current_tenant"]

Config = TypeVar("Config", bound="BaseModel")


@dataclass(frozen=True, slots=True)
class CurrentTenant:
    """For whom the code that asks is running."""

    id: str
    slug: str
    key_id: str
    """The API key of the caller; empty on a public tenant."""


current_tenant_var: ContextVar[CurrentTenant | None] = ContextVar("trunkline_tenant", default=None)


def current_tenant() -> CurrentTenant | None:
    """The tenant whose call is being executed, in a hosted server's handlers and threads; None elsewhere."""
    return current_tenant_var.get()


class NotConfigured(Exception):
    """The tenant has to configure a toolset before it can be used; clients may read the sentence."""


current_configs_var: ContextVar[tuple[BaseModel, ...]] = ContextVar("trunkline_configs", default=())


def current_config(model: type[Config]) -> Config:
    """What the tenant whose call is being executed has configured, in a hosted server's handlers and threads.

    Args:
        model: The class that the server declares as its `trunkline_config`.

    Returns:
        The tenant's values; the model's own defaults where it has set none, and outside of a call.

    Raises:
        NotConfigured: it has set none, and a field has no default.
    """
    for configured in current_configs_var.get():
        if type(configured) is model:
            return configured
    missing = [name for name, field in model.model_fields.items() if field.is_required()]
    if missing:
        raise _not_configured()(
            f"This tool is not configured yet: an administrator of the tenant has to set {', '.join(missing)}."
        )
    return model()


@cache
def _not_configured() -> type[NotConfigured]:
    """The kind of NotConfigured whose sentence the SDK passes on: it tells clients nothing of other exceptions."""
    from mcp.server.mcpserver.exceptions import ToolError

    return type("NotConfigured", (NotConfigured, ToolError), {"__module__": __name__})
