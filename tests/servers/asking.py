"""A server whose tools trace what they do, and ask another service meanwhile."""

from __future__ import annotations

import asyncio
import urllib.request

from mcp.server.mcpserver import Context, MCPServer
from opentelemetry import trace

server = MCPServer("asking")
tracer = trace.get_tracer("asking")


def _ask(url: str) -> str:
    with tracer.start_as_current_span("thinking"), urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.status)


@server.tool()
async def ask(url: str, secret: str) -> str:
    """Ask from a coroutine."""
    return await asyncio.to_thread(_ask, url)


@server.tool()
def ask_in_thread(url: str, secret: str) -> str:
    """Ask from a plain function, which runs in a thread."""
    return _ask(url)


@server.tool()
async def fail(ctx: Context, url: str, secret: str) -> str:
    """Fail with what it was given in its words."""
    with tracer.start_as_current_span("failing", record_exception=False, set_status_on_exception=False):
        raise ValueError(f"no {secret} for {ctx.request_id}")
