"""An MCP server with something to configure, whose tools tell what they found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel, SecretStr
from tests.journey.workshop import gates

from trunkline import current_config

NAME = "weather"
PATH = "tests.journey.weather:mcp"

_openings = count(1)


class Config(BaseModel):
    token: SecretStr
    region: str = "eu"


@asynccontextmanager
async def station(_: MCPServer[int]) -> AsyncIterator[int]:
    """Each worker that hosts this server has its own number."""
    yield next(_openings)


mcp: MCPServer[int] = MCPServer(NAME, lifespan=station)
mcp.trunkline_config = Config  # type: ignore[attr-defined]


def told() -> str:
    config = current_config(Config)
    return f"{config.token.get_secret_value()} {config.region}"


@mcp.tool()
async def report() -> str:
    """What is configured."""
    return told()


@mcp.tool()
def measure() -> str:
    """The same, from a thread."""
    return told()


@mcp.tool()
async def watch(gate: str) -> list[Any]:
    """What is configured before and after the gate opens."""
    before = told()
    with gates[gate].counted():
        await gates[gate].opened.wait()
    return [before, told()]
