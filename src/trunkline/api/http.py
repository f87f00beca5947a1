"""The HTTP of an API pod, below its routes: a request's parts, its body, and answers to it."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Container, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import orjson

from trunkline.api.connection import CLIENT_GONE, Held, Protocol, Scope
from trunkline.errors import (
    BodyTooLarge,
    HttpVersionTooOld,
    InvalidMessage,
    MethodNotAllowed,
    TrunklineError,
    Unauthorized,
    UnsupportedMediaType,
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
_QUERY_SYNTAX = re.compile(rb"[&%+;=]")
_NO_STORE = (b"cache-control", b"no-store")


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

    def check_streamable(self) -> None:
        """Refuse what cannot be answered with a stream; to be asked before one is opened or taken over for it.

        Raises:
            HttpVersionTooOld: HTTP/1.0 has no way to send parts of unknown length and go on.
            InvalidMessage: other requests wait behind this one.
        """
        if self.scope["http_version"] == "1.0":
            raise HttpVersionTooOld
        if self.protocol.cycle.scope is not self.scope:
            raise InvalidMessage("Send nothing behind a request for a stream on the same connection.")

    def hold(self, answer: Held) -> None:
        """Make the connection this request's own until it is answered; the answer is told when its client goes.

        Raises:
            InvalidMessage: other requests wait behind this one.
        """
        protocol = self.protocol
        if protocol.cycle.scope is not self.scope:
            raise InvalidMessage("Send nothing behind a request that is held on the same connection.")
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
