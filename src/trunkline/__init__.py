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

__version__ = "0.1.0"

__all__ = ["CurrentTenant", "__version__", "current_tenant"]


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
