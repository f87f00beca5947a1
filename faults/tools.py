"""The MCP server of the scenarios, hosted by every worker with `--server faults.tools:server`.

Each tool takes a token that no other call has, keeps it with the effects service, and gives it back.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import CreateMessageResult, ListRootsResult, SamplingMessage, TextContent, ToolAnnotations
from pydantic import BaseModel

from faults import TOOLSET
from faults.effects import BEGUN, EFFECT, Reporter, record_now

server: MCPServer[Any] = MCPServer(TOOLSET, log_level="WARNING")

_SAFE = ToolAnnotations(read_only_hint=False, idempotent_hint=True)
_reporter = Reporter()


async def _act(token: str, ms: int) -> str:
    await _reporter.record(token, BEGUN)
    await asyncio.sleep(ms / 1000)
    await _reporter.record(token, EFFECT)
    return token


@server.tool(annotations=_SAFE, structured_output=False)
async def repeatable(token: str, ms: int = 0) -> str:
    """Take so many milliseconds, then have an effect; says of itself that repeating it does no harm."""
    return await _act(token, ms)


@server.tool(structured_output=False)
async def once(token: str, ms: int = 0) -> str:
    """Take so many milliseconds, then have an effect; says nothing of itself, so it may not be repeated."""
    return await _act(token, ms)


@server.tool(structured_output=False)
async def hog(token: str, seconds: float) -> str:
    """Hold the worker's event loop, as a badly written tool does."""
    record_now(token, BEGUN)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    record_now(token, EFFECT)
    return token


@server.tool(structured_output=False)
async def leave(token: str) -> str:
    """End the worker's process; may not be repeated."""
    record_now(token, BEGUN)
    os._exit(7)


@server.tool(annotations=_SAFE, structured_output=False)
async def leave_repeatable(token: str) -> str:
    """End the worker's process; says of itself that repeating it does no harm."""
    record_now(token, BEGUN)
    os._exit(7)


@server.tool(annotations=_SAFE, structured_output=False)
async def leave_later(token: str, seconds: float) -> str:
    """End the worker's process after so many seconds; says of itself that repeating it does no harm."""
    record_now(token, BEGUN)
    await asyncio.sleep(seconds)
    os._exit(7)


@server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
async def slow(token: str, seconds: float) -> str:
    """Wait, without any effect."""
    await asyncio.sleep(seconds)
    return token


class Word(BaseModel):
    """What a person is asked for."""

    text: str


def _word(token: str) -> Elicit[Word]:
    return Elicit(token, Word)


def _thought(token: str) -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text=token))], max_tokens=10)


def _folders() -> ListRoots:
    return ListRoots()


@server.tool(structured_output=False)
async def ask(
    token: str,
    word: Annotated[Word, Resolve(_word)],
    thought: Annotated[CreateMessageResult, Resolve(_thought)],
    folders: Annotated[ListRootsResult, Resolve(_folders)],
) -> str:
    """Ask the client in each way that there is, then have an effect; all that it hears must be of the token."""
    await _reporter.record(token, BEGUN)
    said = thought.content.text if isinstance(thought.content, TextContent) else ""
    heard = [word.text, said, *(str(root.uri).removeprefix("file:///") for root in folders.roots)]
    if heard != [f"word for {token}", f"thought of {token}", f"folder-{token}"]:
        return f"{token} heard {heard}"
    await _reporter.record(token, EFFECT)
    return token
