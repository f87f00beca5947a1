"""One client session for each transport, the same for both sides.

Each counts its JSON-RPC ids from 0, as all clients do, has one request under way at most, and checks every answer:
the id must be the one it waits for and the text the one it sent. Anything else that comes ends the run.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar, Self
from urllib.parse import urljoin, urlsplit

import orjson

from bench.wire import Exchange, Posts, Stream, WrongAnswerError, target

CLIENT = {"name": "trunkline-bench", "version": "1"}
MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_JSON = "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"


class Session:
    """What is common to all: a connection for POSTs, ids, and the call that is measured."""

    version: ClassVar[str]

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = f"host: {urlsplit(url).netloc}\r\n" + (f"authorization: Bearer {key}\r\n" if key else "")
        self._head = b""
        """What each POST begins with."""
        self._next_id = 0
        self._posts: Posts | None = None
        self._last: Exchange | None = None
        self._stream: Stream | None = None
        self._fault: WrongAnswerError | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    async def open(self) -> None:
        """Connect, and whatever the transport wants before the first call."""
        raise NotImplementedError

    async def initialize(self) -> None:
        """Send `initialize` alone, on the connection that there is."""
        raise NotImplementedError

    async def listen(self) -> None:
        """Hold the stream that a client keeps open while it is idle, where the transport has one."""

    async def end(self) -> None:
        """Have the server forget the session, where closing the connections does not."""

    async def call(self, tool: str, text: str) -> float:
        """Call `tool` and check that it gives back `text`; seconds from the first byte sent to the answer."""
        await self._settle()
        began = time.perf_counter()
        result = await self._request("tools/call", {"name": tool, "arguments": {"text": text}})
        took = time.perf_counter() - began
        content = result.get("content") or [{}]
        if result.get("isError") or len(content) != 1 or content[0].get("text") != text:
            raise WrongAnswerError(f"sent {text!r}, got {orjson.dumps(result)[:300]!r}")
        return took

    def rest(self) -> None:
        """Close the connection for POSTs, as HTTP clients do with one that is idle; a stream stays."""
        if self._posts is not None:
            self._posts.close()
            self._posts = None

    def check(self) -> None:
        """Raise what came unasked since the last call, or that a stream has ended."""
        fault = self._fault or (self._posts.fault if self._posts is not None else None)
        if fault is not None:
            raise fault

    def close(self) -> None:
        """Hang up."""
        self.rest()
        if self._stream is not None:
            self._stream.on_end = lambda _error: None
            self._stream.close()

    async def _initialize(self) -> None:
        params = {"protocolVersion": self.version, "capabilities": {}, "clientInfo": CLIENT}
        result = await self._request("initialize", params)
        if result.get("protocolVersion") != self.version:
            raise WrongAnswerError(f"initialize was answered with {orjson.dumps(result)[:300]!r}")

    async def _initialized(self) -> None:
        exchange = await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        await _expect(exchange, 202)

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request; its result."""
        self.check()
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        body = orjson.loads(await self._answer(message))
        if body.get("id") != self._next_id or "result" not in body:
            raise WrongAnswerError(f"{method} was answered with {orjson.dumps(body)[:300]!r}")
        self._next_id += 1
        result: dict[str, Any] = body["result"]
        return result

    async def _answer(self, message: dict[str, Any]) -> bytes:
        """Send a request; the message that answers it, unread."""
        raise NotImplementedError

    async def _post(self, message: dict[str, Any]) -> Exchange:
        return await self._send(self._head, orjson.dumps(message))

    async def _send(self, head: bytes, body: bytes) -> Exchange:
        await self._settle()
        if self._posts is None or self._posts.closed:
            self._posts = await Posts.connect(self._url)
        self._last = self._posts.send(head, body)
        return self._last

    async def _settle(self) -> None:
        """Wait for the end of the last response: nothing is sent on its connection before."""
        if self._last is not None:
            await self._last.ended
            self._last = None

    async def _get(self, url: str, headers: str) -> Stream:
        stream = await Stream.connect(url, self._on_event, self._on_end)
        stream.write(f"GET {target(urlsplit(url))} HTTP/1.1\r\n{headers}accept: text/event-stream\r\n\r\n".encode())
        return stream

    def _on_event(self, _name: bytes, data: bytes) -> None:
        self._on_end(WrongAnswerError(f"unasked: {data[:300]!r}"))

    def _on_end(self, error: WrongAnswerError) -> None:
        self._fault = self._fault or error


class SseSession(Session):
    """HTTP+SSE (specification 2024-11-05): answers come on one stream, POSTs are answered 202."""

    version = "2025-06-18"

    def __init__(self, url: str, key: str) -> None:
        super().__init__(url, key)
        self._endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting: asyncio.Future[bytes] | None = None

    async def open(self) -> None:
        """Open the stream, read where to post, initialize."""
        self._stream = await self._get(self._url, self._headers)
        endpoint = target(urlsplit(urljoin(self._url, await self._endpoint)))
        self._head = f"POST {endpoint} HTTP/1.1\r\n{self._headers}{_JSON}".encode()
        await self._initialize()
        await self._initialized()

    async def _answer(self, message: dict[str, Any]) -> bytes:
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        await _expect(await self._post(message), 202)
        return await waiting

    def _on_event(self, name: bytes, data: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if name == b"endpoint" and not self._endpoint.done():
            self._endpoint.set_result(data.decode())
        elif waiting is None or waiting.done():
            super()._on_event(name, data)
        else:
            waiting.set_result(data)

    def _on_end(self, error: WrongAnswerError) -> None:
        super()._on_end(error)
        for future in (self._endpoint, self._waiting):
            if future is not None and not future.done():
                future.set_exception(error)


class HttpSession(Session):
    """Streamable HTTP with a session (2025-11-25): answers come with the POST, as a document or as a stream."""

    version = "2025-11-25"

    def __init__(self, url: str, key: str) -> None:
        super().__init__(url, key)
        self._target = f"{target(urlsplit(url))} HTTP/1.1\r\n"
        self._post_head = f"POST {self._target}{self._headers}{_JSON}"
        self._session = ""
        """The headers that name the session and the version."""
        self._opened: list[str] = []

    async def open(self) -> None:
        """Initialize a session, on the connection that there is; an earlier one stays open until `end`."""
        await self.initialize()
        await self._initialized()

    async def initialize(self) -> None:
        """The first half of that."""
        self._head, self._session = self._post_head.encode(), ""
        await self._initialize()
        self._head = f"{self._post_head}{self._session}".encode()

    async def listen(self) -> None:
        """Open the session's own stream."""
        self._stream = await self._get(self._url, self._headers + self._session)
        await self._stream.begun
        self.check()

    async def end(self) -> None:
        """End the sessions that were opened."""
        for session in self._opened:
            await _expect(await self._send(f"DELETE {self._target}{self._headers}{session}".encode(), b""), 200, 204)
        self._opened.clear()

    async def _answer(self, message: dict[str, Any]) -> bytes:
        exchange = await self._post(message)
        answer = await exchange.message
        if exchange.status != 200 or not answer:
            raise WrongAnswerError(f"POST was answered with {exchange.status}: {answer[:300]!r}")
        if exchange.session and not self._session:
            name = exchange.session.decode()
            self._session = f"mcp-session-id: {name}\r\nmcp-protocol-version: {self.version}\r\n"
            self._opened.append(self._session)
        return answer


class ModernSession(HttpSession):
    """Stateless (2026-07-28): no session; each POST says all of itself, in headers and in `_meta`."""

    version = MODERN

    async def open(self) -> None:
        """Nothing: the first call is the first that a server hears."""

    async def listen(self) -> None:
        """Nothing: a client that waits for nothing has no stream."""

    async def _answer(self, message: dict[str, Any]) -> bytes:
        method, params = message["method"], message["params"]
        standard = f"mcp-protocol-version: {MODERN}\r\nmcp-method: {method}\r\nmcp-name: {params['name']}\r\n"
        self._head = f"{self._post_head}{standard}".encode()
        return await super()._answer({**message, "params": {**params, "_meta": META}})


async def _expect(exchange: Exchange, *statuses: int) -> None:
    """Wait for the end of a response that must have one of these statuses."""
    body = await exchange.message
    if exchange.status not in statuses:
        raise WrongAnswerError(f"answered with {exchange.status}: {body[:300]!r}")


CLIENTS: dict[str, type[Session]] = {"sse": SseSession, "http": HttpSession, "modern": ModernSession}
"""By transport."""
