"""The SDK for Python, its client for each transport, and FastMCP's client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastmcp import Client as FastClient
from fastmcp.client.transports import SSETransport, StreamableHttpTransport
from mcp import Client, ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CreateMessageResult, ElicitResult, TextContent
from tests.acceptance.pods import TLS
from tests.interop.desk import TOOLS
from tests.replicas import Replicas

PATIENCE = 30.0
AT_ONCE = 20


class Guest:
    """The user of a client, and its model."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, float | None, str | None]] = []

    async def answer(self, *_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def write(self, *_: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="On engines"), model="m")

    async def listen(self, progress: float, total: float | None, message: str | None) -> None:
        self.heard.append((progress, total, message))


@contextlib.asynccontextmanager
async def sse(desk: Replicas, guest: Guest) -> AsyncIterator[ClientSession]:
    async with (
        sse_client(desk.url("sse"), headers=desk.headers) as streams,
        ClientSession(*streams, elicitation_callback=guest.answer, sampling_callback=guest.write) as session,
    ):
        assert (await session.initialize()).protocol_version == "2025-11-25"
        yield session


@contextlib.asynccontextmanager
async def http(desk: Replicas) -> AsyncIterator[httpx2.AsyncClient]:
    timeout = httpx2.Timeout(PATIENCE, read=PATIENCE * 2)
    async with httpx2.AsyncClient(headers=desk.headers, timeout=timeout, trust_env=False, verify=TLS) as client:
        yield client


@contextlib.asynccontextmanager
async def streamable(desk: Replicas, guest: Guest) -> AsyncIterator[ClientSession]:
    async with (
        http(desk) as client,
        streamable_http_client(desk.url("mcp"), http_client=client) as streams,
        ClientSession(*streams, elicitation_callback=guest.answer, sampling_callback=guest.write) as session,
    ):
        assert (await session.initialize()).protocol_version == "2025-11-25"
        yield session


@contextlib.asynccontextmanager
async def modern(desk: Replicas, guest: Guest) -> AsyncIterator[Client]:
    async with http(desk) as through:
        transport = streamable_http_client(desk.url("mcp"), http_client=through)
        callbacks: dict[str, Any] = {"elicitation_callback": guest.answer, "sampling_callback": guest.write}
        async with Client(transport, **callbacks) as client:
            assert client.protocol_version == "2026-07-28"
            yield client


@pytest.mark.parametrize("connected", [sse, streamable, modern])
async def test_the_sdk_s_client_lists_calls_is_asked_and_hears_of_progress(desk: Replicas, connected: Any) -> None:
    guest = Guest()
    async with asyncio.timeout(PATIENCE), connected(desk, guest) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        added = await client.call_tool("add", {"a": 3, "b": 5})
        assert (added.is_error, added.content[0].text, added.structured_content) == (False, "8", {"result": 8})
        assert (await client.call_tool("add", {"a": "three"})).is_error
        counted = await client.call_tool("countdown", {"start": 3}, progress_callback=guest.listen)
        assert counted.content[0].text == "counted down from 3"
        assert guest.heard == [(0, 3, "3 to go"), (1, 3, "2 to go"), (2, 3, "1 to go"), (3, 3, "0 to go")]
        assert (await client.call_tool("greet", {})).content[0].text == "Welcome, Ada!"
        assert (await client.call_tool("entitle", {"text": "a text"})).content[0].text == "On engines: a text"
        texts = [f"{number} of {AT_ONCE}" for number in range(AT_ONCE)]
        echoes = await asyncio.gather(*(client.call_tool("echo", {"text": text}) for text in texts))
        assert [echo.content[0].text for echo in echoes] == texts


@pytest.mark.parametrize(
    ("transport", "path", "mode", "version"),
    [
        (SSETransport, "sse", "legacy", "2025-11-25"),
        (StreamableHttpTransport, "mcp", "legacy", "2025-11-25"),
        (StreamableHttpTransport, "mcp", "auto", "2026-07-28"),
    ],
)
async def test_fastmcp_s_client_lists_calls_is_asked_and_hears_of_progress(
    desk: Replicas, transport: Any, path: str, mode: Any, version: str
) -> None:
    guest = Guest()
    client = FastClient(
        transport(desk.url(path), headers=desk.headers),
        mode=mode,
        elicitation_handler=guest.answer,
        sampling_handler=guest.write,
        progress_handler=guest.listen,
    )
    async with asyncio.timeout(PATIENCE), client:
        assert client.session.protocol_version == version
        assert {tool.name for tool in await client.list_tools()} == TOOLS
        assert (await client.call_tool("add", {"a": 3, "b": 5})).structured_content == {"result": 8}
        assert (await client.call_tool("countdown", {"start": 1})).content[0].text == "counted down from 1"
        assert guest.heard == [(0, 1, "1 to go"), (1, 1, "0 to go")]
        assert (await client.call_tool("greet", {})).content[0].text == "Welcome, Ada!"
        assert (await client.call_tool("entitle", {"text": "a text"})).content[0].text == "On engines: a text"
