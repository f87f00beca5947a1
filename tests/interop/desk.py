"""The server that the clients visit: an author's, with a tool for each thing that a client can take part in."""

from __future__ import annotations

import asyncio
from typing import Annotated

from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve, Sample
from mcp_types import CreateMessageResult, SamplingMessage, TextContent
from pydantic import BaseModel

SERVER = "tests.interop.desk:server"
TOOLS = {"add", "echo", "countdown", "greet", "entitle"}
STEP = 0.02
"""Seconds that a number takes: the SDK for TypeScript drops the progress that comes in one piece with the answer."""

server = MCPServer("desk", version="1.0.0")


@server.tool()
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@server.tool()
async def echo(text: str) -> str:
    """The same text."""
    return text


@server.tool()
async def countdown(start: int, ctx: Context) -> str:
    """Count down, with a report of each number."""
    for done in range(start + 1):
        await ctx.report_progress(done, start, f"{start - done} to go")
        await asyncio.sleep(STEP)
    return f"counted down from {start}"


class Visitor(BaseModel):
    name: str


async def who() -> Elicit[Visitor]:
    return Elicit("Who is there?", Visitor)


@server.tool()
async def greet(visitor: Annotated[Visitor, Resolve(who)]) -> str:
    """Ask the user's name and greet them."""
    return f"Welcome, {visitor.name}!"


async def words_for(text: str) -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text=text))], max_tokens=20)


@server.tool()
async def entitle(text: str, title: Annotated[CreateMessageResult, Resolve(words_for)]) -> str:
    """Have the client's model write a title for a text."""
    return f"{title.content.text}: {text}" if isinstance(title.content, TextContent) else text
