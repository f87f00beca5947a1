"""An MCP server whose tools ask, hang up and announce; its author knows no Trunkline."""

from __future__ import annotations

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ToolsListChanged
from pydantic import BaseModel
from tests.journey import workshop

NAME = "Parlour"
PATH = "tests.journey.parlour:mcp"
NOTE = "note://parlour/news"

bus = InMemorySubscriptionBus()
mcp: MCPServer[None] = MCPServer(NAME, subscriptions=bus)


class Name(BaseModel):
    name: str


@mcp.tool()
async def greet(ctx: Context[None]) -> str:
    """Greet the client by the name that it gives."""
    answer = await ctx.elicit("What is your name?", Name)
    return f"Hello {answer.data.name}" if answer.action == "accept" else f"Hello, {answer.action}"


@mcp.tool()
async def greet_inside(gate: str, ctx: Context[None]) -> str:
    """The same; the gate knows how many do."""
    with workshop.gates[gate].counted():
        return await greet(ctx)


@mcp.tool()
async def sign_in(ctx: Context[None]) -> str:
    """Send the user to a page, and say when that is done."""
    answer = await ctx.elicit_url("Sign in, please.", "https://door.example/in", "door-1")
    await ctx.session.send_elicit_complete("door-1", related_request_id=ctx.request_id)
    return answer.action


@mcp.tool()
async def knock(ctx: Context[None]) -> str:
    """Ask whether the client is there."""
    await ctx.session.send_ping()
    return "someone is there"


@mcp.tool()
async def call_back(gate: str, ctx: Context[None]) -> str:
    """Hang up, and have the answer ready when the gate is open."""
    await ctx.close_sse_stream()
    return await workshop.wait(gate)


@mcp.tool()
async def hang_up(ctx: Context[None]) -> str:
    """Hang up the session's own stream."""
    await ctx.close_standalone_sse_stream()
    return "hung up"


@mcp.tool()
async def rearrange(ctx: Context[None]) -> str:
    """Say that the tools have changed."""
    await ctx.notify_tools_changed()
    return "rearranged"


@mcp.tool()
async def whisper() -> str:
    """Say to whoever listens that tools and news have changed, outside of what this call can do."""
    await bus.publish(ToolsListChanged())
    await bus.publish(ResourceUpdated(NOTE))
    return "whispered"


@mcp.resource(NOTE)
def news() -> str:
    """What is new."""
    return "nothing"
