"""The HTTP of an API pod, below its routes: a request's parts, its body, and answers to it."""

from __future__ import annotations

import asyncio
import math
import re
import typing
from collections.abc import Awaitable, Callable, Container, MutableMapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qs

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from trunkline.errors import (
    INVALID_REQUEST,
    BodyTooLarge,
    HttpVersionTooOld,
    InvalidMessage,
    MethodNotAllowed,
    TrunklineError,
    Unauthorized,
    UnsupportedMediaType,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
_QUERY_SYNTAX = re.compile(rb"[&%+;=]")
_NO_STORE = (b"cache-control", b"no-store")
CLIENT_GONE = "client gone"
_MOST_CORKED = 65_536
"""Bytes of one turn that a connection keeps from its transport: as many as the transport's high-water mark."""


class Held(typing.Protocol):
    """An answer that takes its time."""

    def end(self, reason: str) -> None:
        """Nobody waits for it any more."""


class ClientGone(Exception):
    """The client closed the connection before it had sent its request whole."""


class Request:
    """One HTTP request: what its route needs of it."""

    __slots__ = ("cors", "headers", "method", "path", "receive", "scope", "send", "tenant")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """By lower-case name; see `refuse_duplicates` for names that come twice."""
        self.tenant = ""
        """The name of the tenant in the path, for routes that have one."""
        self.cors: Headers = []
        """Headers that every answer to this request carries (Fetch standard, CORS protocol)."""

    def refuse_duplicates(self) -> None:
        """Refuse a request that says twice who it is or whom it is for: a proxy in front may have read the other.

        Raises:
            InvalidMessage: Host, Authorization, Origin, Content-Length or Mcp-Session-Id comes more than once.
        """
        if len(self.headers) == len(self.scope["headers"]):
            return
        names = [name for name, _ in self.scope["headers"]]
        for name in (b"host", b"authorization", b"origin", b"content-length", b"mcp-session-id"):
            if names.count(name) > 1:
                raise InvalidMessage(f"The header {name.decode()} comes more than once.")

    def begin_stream(self, answer: Held) -> None:
        """Make the connection this request's own: it is about to be answered with a stream.

        Raises:
            HttpVersionTooOld: HTTP/1.0 has no way to send parts of unknown length and go on.
            InvalidMessage: other requests wait behind this one.
        """
        if self.scope["http_version"] == "1.0":
            raise HttpVersionTooOld
        self.hold(answer)

    def hold(self, answer: Held) -> None:
        """Make the connection this request's own until it is answered; the answer is told when its client goes.

        Raises:
            InvalidMessage: other requests wait behind this one.
        """
        protocol = self.protocol
        if protocol.cycle.scope is not self.scope:
            raise InvalidMessage("Send nothing behind a request for a stream on the same connection.")
        protocol.held = answer
        if protocol.cycle.disconnected:
            answer.end(CLIENT_GONE)
        protocol.flow.resume_reading()  # or nobody would learn that the client goes

    def header(self, name: bytes) -> str:
        """A header's value, by its lower-case name; empty where it is missing."""
        return self.headers.get(name, b"").decode("latin-1")

    def query(self, name: str) -> str:
        """A query parameter's first value; empty where it is missing."""
        text: bytes = self.scope["query_string"]
        if text.startswith(name.encode() + b"=") and text.isascii() and not _QUERY_SYNTAX.search(text, len(name) + 1):
            return text[len(name) + 1 :].decode()
        try:
            found = parse_qs(text.decode("latin-1"), max_num_fields=32).get(name)
        except ValueError:
            raise InvalidMessage("The query has more than 32 parameters.") from None
        return found[0] if found else ""

    @property
    def whole(self) -> bool:
        """Whether the request has arrived with its body: always so once another one follows on its connection."""
        cycle = self.protocol.cycle
        return cycle.scope is not self.scope or not cycle.more_body

    @property
    def protocol(self) -> Protocol:
        """The connection that the request came on."""
        found: Protocol = self.scope["extensions"]["trunkline.protocol"]
        return found

    def address(self, trusted: Container[str]) -> str:
        """The client's address: of the peers on the way here, the last that is not a trusted proxy."""
        peer, _ = self.scope.get("client") or ("", 0)
        hops = [hop.strip() for hop in (*self.header(b"x-forwarded-for").split(","), str(peer)) if hop.strip()]
        for hop in reversed(hops):
            if "*" not in trusted and hop not in trusted:
                return hop
        return hops[0] if hops else ""

    def abort(self) -> None:
        """Drop the connection and what it still holds for its client."""
        self.protocol.transport.abort()

    async def body(self, most: int, timeout: float) -> bytes:
        """The JSON body, read whole.

        Raises:
            UnsupportedMediaType: it is declared as something else than JSON.
            BodyTooLarge: more than `most` bytes, declared or sent.
            InvalidMessage: it did not arrive within `timeout` seconds.
            ClientGone: the client hung up.
        """
        if self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaType
        declared = self.headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            raise BodyTooLarge(f"The body is larger than {most} bytes.")
        if self.whole:  # it came with the head, as small ones do
            body = self.protocol.take_body(self.scope)
            return _bounded((await self._part())["body"] if body is None else body, most)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    part = await self._part()
                    size += len(part["body"])
                    if size > most:
                        raise BodyTooLarge(f"The body is larger than {most} bytes.")
                    parts.append(part["body"])
                    if not part.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise InvalidMessage("The body did not arrive in time.") from None

    async def _part(self) -> MutableMapping[str, Any]:
        part = await self.receive()
        if part["type"] == "http.disconnect":
            raise ClientGone
        return part

    async def begin(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        """Begin an answer of unknown length; what follows is written by `Protocol.write_chunk`."""
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *self.cors]})

    async def answer(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Answer with a whole body."""
        length = (b"content-length", b"%d" % len(body))
        if self.protocol.answer(self.scope, status, (length, *headers, *self.cors), body):
            return
        await self.send({"type": "http.response.start", "status": status, "headers": [length, *headers, *self.cors]})
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def answer_json(self, status: int, value: object) -> None:
        """Answer with a JSON document that no cache keeps."""
        await self.answer(status, orjson.dumps(value), JSON, _NO_STORE)

    async def refuse(self, error: TrunklineError, request_id: bytes = b"null") -> None:
        """Answer with an error: a JSON-RPC error response as the body, on every path."""
        headers: Headers = [JSON, _NO_STORE]
        if error.retry_after is not None:
            headers.append((b"retry-after", str(max(math.ceil(error.retry_after), 1)).encode()))
        if isinstance(error, Unauthorized):
            headers.append((b"www-authenticate", b'Bearer realm="trunkline", error="invalid_token"'))
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allow.encode()))
        await self.answer(error.status, error_response(error, request_id), *headers)


def error_response(error: TrunklineError, request_id: bytes) -> bytes:
    """An error as the JSON-RPC response to a request, named by its id as JSON."""
    content: dict[str, object] = {"code": error.code, "message": error.message}
    if error.data is not None:
        content["data"] = error.data
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id, orjson.dumps(content))


def _bounded(body: bytes, most: int) -> bytes:
    if len(body) > most:
        raise BodyTooLarge(f"The body is larger than {most} bytes.")
    return body


class Corked:
    """A transport that sends what is written in one turn of the event loop at once, unless it is much.

    uvicorn writes the head and the body of an answer one after the other; each write is a system call, and on
    loopback and small answers the dearest part of a request. What is much goes on before the turn ends: the kernel
    takes what it has room for, and the transport tells of a client that does not keep up.
    """

    __slots__ = ("_corked", "_loop", "_transport", "_written")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self._corked = 0

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)
        self._corked += len(data)
        if self._corked >= _MOST_CORKED:
            self._flush()

    def close(self) -> None:
        """Send what was written, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written:
            written = b"".join(self._written)
            self._written.clear()
            self._corked = 0
            self._transport.write(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also knows since when it waits for a head, and can stream without a task."""

    # Beside uvicorn's own attributes, whose dictionary would otherwise double for each connection.
    __slots__ = ("body_since", "head_since", "held", "idle_since")

    held: Held | None
    """The answer that takes its time: while it does, nothing else is answered on this connection."""
    head_since: float | None
    """When the client began the head of a request, by the loop's clock; None while there is none under way."""
    body_since: float | None
    """When the client began the body of a request, answered or not; None while there is none under way."""
    idle_since: float | None
    """When the last answer was written; None while a request is under way, or before the first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))
        self.held = None
        self.head_since, self.body_since, self.idle_since = self.loop.time(), None, None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was hung up on."""
        super().connection_lost(exc)
        if self.held is not None:
            self.held.end(CLIENT_GONE)

    def on_message_begin(self) -> None:
        """The first byte of a request is there."""
        super().on_message_begin()
        self.scope["extensions"] = {"trunkline.protocol": self}  # type: ignore[dict-item]
        self.head_since, self.idle_since = self.loop.time(), None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field came; behind the body it is a trailer, and no header (RFC 9110, section 6.5.1)."""
        if self.body_since is None:
            super().on_header(name, value.strip(b" \t"))  # the parser leaves it at the end (RFC 9110, section 5.5)

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self.head_since = None
        if self.held is not None:
            self.transport.abort()
            return
        self.body_since = self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is whole."""
        self.body_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request was answered; who looks after slow clients looks after idle ones, so no timer is needed."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.idle_since = self.loop.time()

    # What uvicorn's `receive` and `send` do, for the usual case that all is there and one write is enough.

    def take_body(self, scope: Scope) -> bytes | None:
        """The body of a request that has come whole; None where it takes `receive` to get it."""
        cycle = self.cycle
        if cycle.scope is not scope or cycle.waiting_for_100_continue or cycle.disconnected:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def answer(self, scope: Scope, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write a whole answer at once; False, and nothing is written, where it takes `send` to do it right.

        So for answers that are the last on their connection, that have no body whatever their length says, or whose
        client does not keep up.
        """
        cycle = self.cycle
        if (
            cycle.scope is not scope
            or not cycle.keep_alive
            or cycle.disconnected
            or cycle.response_started
            or not self.keeps_up
            or scope["method"] == "HEAD"
        ):
            return False
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            if name == b"connection":
                return False
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", body)
        cycle.response_started = cycle.response_complete = True
        self.transport.write(b"".join(parts))
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in JSON like every error."""
        body = orjson.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": msg}})
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    @property
    def keeps_up(self) -> bool:
        """Whether the client reads what it is sent: the transport's buffer is below its high-water mark."""
        return not self.flow.write_paused

    def write_chunk(self, data: bytes) -> None:
        """Write a part of the streamed response that is under way, as `send` would, at once."""
        if self.cycle.chunked_encoding:  # HTTP/1.1; RFC 9112, section 7.1
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.transport.write(data)

    @property
    def unread(self) -> int:
        """Bytes that the client has left no room for, on top of what the kernel holds for it."""
        return self.transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until the client keeps up again, or has gone."""
        await self.flow.drain()
