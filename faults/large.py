"""An MCP server whose one tool answers at length: `--server faults.large:server`."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

NAME = "large"
PATH = "faults.large:server"

server: MCPServer[Any] = MCPServer(NAME, log_level="WARNING")


@server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
async def grow(token: str, size: int) -> str:
    """The token, followed by so many characters."""
    return token + "." * size
