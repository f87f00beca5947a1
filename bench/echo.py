"""The MCP server that both sides serve, the very same object: one tool that gives back its text."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

from bench import TOOL

server = MCPServer("bench", log_level="WARNING")


@server.tool(name=TOOL)
async def echo(text: str) -> str:
    """Give back the text."""
    return text
