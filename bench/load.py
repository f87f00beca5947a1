"""The client: HTTP/1.1 and SSE on bare asyncio protocols, so lean that it leaves the cores to the servers.

Each session counts its JSON-RPC ids from 0, as all clients do, and checks every answer: the id must be the one
it waits for and the text the one it sent. Anything else on its stream ends the run.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Self, cast
from urllib.parse import urljoin, urlsplit

import httptools
import orjson

PROTOCOL_VERSION = "2025-06-18"
CLIENT = {"name": "trunkline-bench", "version": "1"}


class WrongAnswerError(Exception):
    """A server refused, answered what was not asked, or hung up."""


class _Http(asyncio.Protocol):
    """One connection: writes requests, parses responses."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(WrongAnswerError(f"not HTTP: {error!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.fail(WrongAnswerError(f"the server hung up: {exc}"))

    def fail(self, error: WrongAnswerError) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class _Posts(_Http):
    """A keep-alive connection for POSTs; each waits for the status of its response, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[asyncio.Future[int]] = deque()

    def post(self, head: bytes, body: bytes) -> asyncio.Future[int]:
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(answered)
        assert self.transport is not None
        self.transport.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body))
        return answered

    def on_message_complete(self) -> None:
        answered = self.waiting.popleft()
        if not answered.done():
            answered.set_result(self.parser.get_status_code())

    def fail(self, error: WrongAnswerError) -> None:
        while self.waiting:
            answered = self.waiting.popleft()
            if not answered.done():
                answered.set_exception(error)


class _Stream(_Http):
    """The GET: hands each SSE event to `on_event(name, data)`."""

    def __init__(self, on_event: Callable[[bytes, bytes], None], on_end: Callable[[WrongAnswerError], None]) -> None:
        super().__init__()
        self.on_event = on_event
        self.on_end = on_end
        self.rest = b""
        self.name = b""
        self.data: list[bytes] = []

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != 200:
            self.fail(WrongAnswerError(f"GET was answered with {status}"))

    def on_body(self, body: bytes) -> None:
        *lines, self.rest = (self.rest + body).split(b"\n")
        for line in lines:
            self._line(line.removesuffix(b"\r"))

    def _line(self, line: bytes) -> None:
        if not line:
            if self.data:
                self.on_event(self.name, b"\n".join(self.data))
            self.name, self.data = b"", []
        elif line.startswith(b"data:"):
            self.data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            self.name = line[6:].removeprefix(b" ")

    def fail(self, error: WrongAnswerError) -> None:
        self.on_end(error)


class Session:
    """One MCP session over HTTP+SSE (specification 2024-11-05), one request under way at most."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._url = url
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._headers = f"host: {parts.netloc}\r\n" + (f"authorization: Bearer {key}\r\n" if key else "")
        self._head = b""
        self._next_id = 0
        self._answer: asyncio.Future[Any] | None = None
        self._endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._stream: _Stream | None = None
        self._posts: _Posts | None = None
        self._fault: WrongAnswerError | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    async def open(self) -> None:
        """Connect, read the endpoint event, initialize."""
        loop = asyncio.get_running_loop()
        _, self._stream = await loop.create_connection(
            lambda: _Stream(self._on_event, self._on_end), self._host, self._port
        )
        target = urlsplit(self._url)._replace(scheme="", netloc="").geturl()
        head = f"GET {target} HTTP/1.1\r\n{self._headers}accept: text/event-stream\r\n\r\n"
        assert self._stream.transport is not None
        self._stream.transport.write(head.encode())
        endpoint = urlsplit(urljoin(self._url, await self._endpoint))._replace(scheme="", netloc="").geturl()
        self._head = (
            f"POST {endpoint} HTTP/1.1\r\n{self._headers}accept: application/json, text/event-stream\r\n"
            "content-type: application/json\r\n"
        ).encode()
        await self._request(
            "initialize", {"protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": CLIENT}
        )
        await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def call(self, tool: str, text: str) -> float:
        """Call `tool` and check that it gives back `text`; seconds from the first byte sent to the answer."""
        began = time.perf_counter()
        result = await self._request("tools/call", {"name": tool, "arguments": {"text": text}})
        took = time.perf_counter() - began
        content = result.get("content") or [{}]
        if result.get("isError") or len(content) != 1 or content[0].get("text") != text:
            raise WrongAnswerError(f"sent {text!r}, got {orjson.dumps(result)[:300]!r}")
        return took

    def rest(self) -> None:
        """Close the connection for POSTs, as HTTP clients do with one that is idle; the stream stays."""
        if self._posts is not None:
            self._posts.close()
            self._posts = None

    def check(self) -> None:
        """Raise what came unasked since the last call, or that the stream has ended."""
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Hang up."""
        self.rest()
        if self._stream is not None:
            self._stream.on_end = lambda _error: None
            self._stream.close()

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.check()
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        self._answer = answer = asyncio.get_running_loop().create_future()
        await self._post(message)
        body = await answer
        self._next_id += 1
        if "result" not in body:
            raise WrongAnswerError(f"{method} was answered with {orjson.dumps(body)[:300]!r}")
        result: dict[str, Any] = body["result"]
        return result

    async def _post(self, message: dict[str, Any]) -> None:
        if self._posts is None or self._posts.closed:
            _, self._posts = await asyncio.get_running_loop().create_connection(_Posts, self._host, self._port)
        status = await self._posts.post(self._head, orjson.dumps(message))
        if status != 202:
            raise WrongAnswerError(f"POST was answered with {status}")

    def _on_event(self, name: bytes, data: bytes) -> None:
        if name == b"endpoint" and not self._endpoint.done():
            self._endpoint.set_result(data.decode())
            return
        body = orjson.loads(data)
        answer, self._answer = self._answer, None
        if answer is None or answer.done() or body.get("id") != self._next_id:
            self._answer = answer
            self._on_end(WrongAnswerError(f"unasked or foreign: {data[:300]!r}"))
            return
        answer.set_result(body)

    def _on_end(self, error: WrongAnswerError) -> None:
        self._fault = self._fault or error
        for future in (self._endpoint, self._answer):
            if future is not None and not future.done():
                future.set_exception(error)
