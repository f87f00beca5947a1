"""`trunkline.client` against the SDK's own servers, and against servers that refuse, break off or talk nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvicorn
from mcp.server.mcpserver import Image, MCPServer

from trunkline import client
from trunkline.client import CallOutcome, call
from trunkline.errors import TrunklineError

Handler = Callable[[bytes], Awaitable[bytes] | bytes]


def author_server() -> MCPServer:
    server = MCPServer("author")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def fail() -> str:
        raise ValueError("no luck")

    @server.tool()
    def picture() -> Image:
        return Image(data=b"png", format="png")

    return server


class Announced(uvicorn.Server):
    """Tells when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextlib.asynccontextmanager
async def serving(app: object) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, lifespan="on", log_config=None, ws="none", timeout_graceful_shutdown=1)
    server = Announced(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    try:
        await asyncio.wait_for(server.up.wait(), 10)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)


@pytest.fixture(params=["sse", "mcp"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    server = author_server()
    app = server.sse_app() if request.param == "sse" else server.streamable_http_app()
    async with serving(app) as base:
        yield f"{base}/{request.param}"


async def test_a_tool_answers(url):
    assert await call(url, "add", {"a": 3, "b": 5}, None) == CallOutcome("8", ok=True)


async def test_a_tool_that_fails_says_so(url):
    outcome = await call(url, "fail", {}, "tlk_x")
    assert not outcome.ok
    assert "fail" in outcome.text


async def test_content_that_is_no_text_is_json(url):
    outcome = await call(url, "picture", {}, None)
    assert '"mimeType":"image/png"' in outcome.text


@contextlib.asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives each connection the next answer and closes; with the requests it got."""
    requests: list[bytes] = []
    left = iter(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(next(left, b""))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", requests


def http(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def error(message: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"%s"}}' % message.encode()


@pytest.mark.parametrize("path", ["sse", "mcp", "sse/"])
@pytest.mark.parametrize(
    ("key", "answer", "sentence"),
    [
        (None, http("401 Unauthorized"), "The server wants an API key: pass it with --key or set TRUNKLINE_API_KEY."),
        (
            "tlk_x",
            http("401 Unauthorized", error("It has expired.")),
            "The server refused the API key: It has expired.",
        ),
        (
            None,
            http("404 Not Found", b"<html>"),
            "does not know this URL or session: HTTP status 404. Check the URL.",
        ),
        (None, http("403 Forbidden", error("Not you.")), "The server refused the call: Not you."),
        (
            None,
            http("429 Too Many Requests", error("Too fast."), retry_after="7"),
            "The server is not taking the call now: Too fast. Try again in 7 s.",
        ),
        (None, http("503 Service Unavailable", b"[]"), "is not taking the call now: HTTP status 503."),
    ],
)
async def test_a_refusal_is_told_in_one_sentence(path, key, answer, sentence):
    async with answering(answer) as (base, requests):
        with pytest.raises(TrunklineError) as refused:
            await call(f"{base}/{path}", "add", {}, key)
    assert sentence in refused.value.message
    assert (b"Bearer tlk_x" in requests[0]) is (key is not None)


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
ENDPOINT = b"event: endpoint\ndata: messages?session_id=1\n\n"


@contextlib.asynccontextmanager
async def holding(first: bytes, *later: bytes) -> AsyncIterator[str]:
    """A server that holds the first connection open after `first`, and answers the others."""
    left = iter((first, *later))
    end = asyncio.Event()
    handlers = asyncio.Semaphore(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = next(left, b"")
        writer.write(answer)
        await writer.drain()
        if answer == first:
            await end.wait()
        writer.close()
        handlers.release()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            end.set()
            await asyncio.wait_for(handlers.acquire(), 5)


async def test_a_message_that_is_refused_ends_the_call_at_once():
    """The SDK's client would go on waiting for the answer on the stream."""
    refusal = http("429 Too Many Requests", error("Too many sessions."), retry_after="3")
    async with holding(STREAM + ENDPOINT, refusal) as base, asyncio.timeout(10):
        with pytest.raises(TrunklineError, match=r"Too many sessions\. Try again in 3 s\."):
            await call(f"{base}/sse", "add", {}, None)


@pytest.mark.parametrize("stream", [STREAM, STREAM + b": nothing but a comment\n\n", b""])
async def test_a_server_that_never_begins_is_given_up(stream, monkeypatch):
    monkeypatch.setattr(client, "HANDSHAKE_TIMEOUT", 0.2)
    async with holding(stream) as base, asyncio.timeout(10):
        with pytest.raises(TrunklineError, match="does not answer in time"):
            await call(f"{base}/sse", "add", {}, None)


async def test_a_stream_that_ends_before_the_answer_says_that_the_outcome_is_unknown():
    async with answering(STREAM + ENDPOINT, http("202 Accepted")) as (base, _), asyncio.timeout(10):
        with pytest.raises(TrunklineError, match="whether the tool ran is not known"):
            await call(f"{base}/sse", "add", {}, None)


@pytest.mark.parametrize("path", ["sse", "mcp"])
@pytest.mark.parametrize("answer", [b"", b"not http\r\n\r\n", http("200 OK", b"<html>", content_type="text/html")])
async def test_an_answer_that_is_none_is_one_sentence(path, answer, monkeypatch):
    monkeypatch.setattr(client, "HANDSHAKE_TIMEOUT", 1.0)
    async with answering(answer) as (base, _), asyncio.timeout(10):
        with pytest.raises(TrunklineError) as broken:
            await call(f"{base}/{path}", "add", {}, None)
    assert len(broken.value.message.splitlines()) == 1


@pytest.mark.parametrize("path", ["sse", "mcp"])
async def test_an_address_where_nothing_listens_is_one_sentence(path, free_port):
    with pytest.raises(TrunklineError, match=f"Nothing answers at http://127.0.0.1:{free_port}; check"):
        await call(f"http://127.0.0.1:{free_port}/{path}", "add", {}, None)
