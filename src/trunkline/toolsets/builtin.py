"""The `demo` toolset: four small tools that show that a call arrives, and for whom.

It is written as any author would write a server, and hosted the same way.
"""

from __future__ import annotations

from typing import Annotated, Any

import anyio
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    EmptyResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SetLevelRequestParams,
    ToolAnnotations,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from trunkline import __version__, current_tenant
from trunkline.toolsets.hosted import lowlevel

demo: MCPServer[Any] = MCPServer(
    "demo",
    title="Trunkline demo",
    description="Tools that show that a call arrives, and for whom.",
    instructions="Call add to check the connection, countdown to see progress, whoami to see whose key is used.",
    version=__version__,
)

_PURE = ToolAnnotations(read_only_hint=True, idempotent_hint=True, destructive_hint=False, open_world_hint=False)


@demo.tool(title="Echo", annotations=_PURE, structured_output=False)
async def echo(text: Annotated[str, Field(description="What to send back.")]) -> str:
    """Send the text back as it came."""
    return text


@demo.tool(title="Add two numbers", annotations=_PURE)
async def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@demo.tool(title="Count down", annotations=_PURE)
async def countdown(
    ctx: Context,
    start: Annotated[int, Field(ge=1, le=60, description="Number to count down from.")] = 3,
    interval: Annotated[float, Field(ge=0, le=5, description="Seconds between two numbers.")] = 1.0,
) -> str:
    """Count down to zero, reporting progress and logging each number."""
    for passed in range(start):
        await ctx.report_progress(passed, start, f"{start - passed} to go")
        await _log(ctx, f"{start - passed}")
        await anyio.sleep(interval)
    await ctx.report_progress(start, start, "done")
    return f"counted down from {start}"


async def _log(ctx: Context, text: str) -> None:
    # The SDK's own ctx.info warns that logging ends with 2026-07-28, where a client must ask for it per request.
    if ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return
    params = LoggingMessageNotificationParams(level="info", logger="countdown", data=text)
    await ctx.session.send_notification(LoggingMessageNotification(params=params), related_request_id=ctx.request_id)


class Caller(BaseModel):
    """For whom a tool runs."""

    tenant: str = Field(description="The tenant's name in URLs; empty outside Trunkline.")
    tenant_id: str
    key_id: str = Field(description="The API key of this call; empty on a public tenant.")
    scopes: list[str] = Field(description="What the key may do, as the SDK's own access token says.")


@demo.tool(title="Who am I", annotations=_PURE)
async def whoami() -> Caller:
    """Say which tenant and which API key this call belongs to."""
    tenant = current_tenant()
    token = get_access_token()
    return Caller(
        tenant=tenant.slug if tenant else "",
        tenant_id=tenant.id if tenant else "",
        key_id=tenant.key_id if tenant else "",
        scopes=sorted(token.scopes) if token else [],
    )


async def _set_level(ctx: ServerRequestContext[Any], params: SetLevelRequestParams) -> EmptyResult:
    # The worker keeps the session's level and filters by it; having this handler declares the capability.
    return EmptyResult()


lowlevel(demo).add_request_handler("logging/setLevel", SetLevelRequestParams, _set_level)
