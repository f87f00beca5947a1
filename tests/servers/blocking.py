"""A server with a tool that holds its thread longer than any test waits."""

from __future__ import annotations

import threading

from mcp.server.mcpserver import MCPServer

server = MCPServer("blocking", log_level="WARNING")


@server.tool()
def hold() -> str:
    """Hold a thread for a minute."""
    threading.Event().wait(60)
    return "held"
