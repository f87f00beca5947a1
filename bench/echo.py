"""The MCP server that both sides serve, the very same object: one tool in two forms, which gives back its text."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

from bench import TOOL, TOOL_ONCE

server = MCPServer("bench", log_level="WARNING")


@server.tool(name=TOOL, annotations=ToolAnnotations(read_only_hint=True))
async def echo(text: str) -> str:
    """Give back the text; as it changes nothing, it says so."""
    return text


@server.tool(name=TOOL_ONCE)
async def echo_once(text: str) -> str:
    """Give back the text; it does not say that it may be repeated, so each start is recorded."""
    return text
