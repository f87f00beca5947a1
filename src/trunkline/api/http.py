"""The HTTP of an API pod, below its routes: a request's parts, its body, and answers to it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs

import orjson

from trunkline.api.connection import CLIENT_GONE, Cycle, Held, Protocol
from trunkline.api.heads import Head, Headers
from trunkline.api.proxies import Proxies
from trunkline.errors import (
    BodyTooLarge,
    HttpVersionTooOld,
    InvalidMessage,
    MethodNotAllowed,
    TrunklineError,
    Unauthorized,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent, HTTPRequestEvent
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


class ClientGone(Exception):
    """The client closed the connection before it had sent its request whole."""


class Request:
    """One HTTP request: what its route needs of it."""

    __slots__ = ("_cycle", "began", "cors", "head", "protocol", "tenant", "told", "waited")

    def __init__(self, head: Head, protocol: Protocol, cycle: RequestResponseCycle) -> None:
        self.head = head
        self.protocol = protocol
        """The connection that the request came on."""
        self._cycle = cycle
        self.began = time.perf_counter()
        """When its head had arrived."""
        self.tenant = ""
        """The name of the tenant in the path, for routes that have one."""
        self.cors: Headers = ()
        """Headers that every answer to this request carries (Fetch standard, CORS protocol)."""
        self.told: Headers = ()
        """What the answer says of the limits of its caller."""
        self.waited = False
        """Whether its body had to be waited for."""

    def check_streamable(self) -> None:
        """Refuse what cannot be answered with a stream; to be asked before one is opened or taken over for it.

        Raises:
            HttpVersionTooOld: HTTP/1.0 has no way to send parts of unknown length and go on.
            InvalidMessage: other requests wait behind this one.
        """
        if self.head.version == "1.0":
            raise HttpVersionTooOld
        if self.protocol.cycle is not self._cycle:
            raise InvalidMessage("Send nothing behind a request for a stream on the same connection.")

    def hold(self, answer: Held) -> None:
        """Make the connection this request's own until it is answered; the answer is told when its client goes.

        Raises:
            InvalidMessage: other requests wait behind this one.
        """
        protocol = self.protocol
        if protocol.cycle is not self._cycle:
            raise InvalidMessage("Send nothing behind a request that is held on the same connection.")
        protocol.held = answer
        if self._cycle.disconnected:
            answer.end(CLIENT_GONE)
        protocol.flow.resume_reading()  # or nobody would learn that the client goes

    def forget(self) -> None:
        """Let go of the head; a stream lives for hours, what it began with need not."""
        self.head.forget()
        cast("list[object]", self._cycle.scope["headers"]).clear()

    def header(self, name: bytes) -> str:
        """A header's value, by its lower-case name; empty where it is missing."""
        return self.head.header(name)

    def query(self, name: str) -> str:
        """A query parameter's first value; empty where it is missing."""
        query = self.head.query
        return (_parameter if len(query) <= _USUAL_QUERY else _parameter.__wrapped__)(query, name)

    @property
    def empty(self) -> bool:
        """Whether the request has arrived, and has no body."""
        return self.whole and not self._cycle.body

    @property
    def whole(self) -> bool:
        """Whether the request has arrived with its body: always so once another one follows on its connection."""
        return not self._cycle.more_body

    def address(self, proxies: Proxies, *, certain: bool = False) -> str:
        """The client's address, as the trusted proxies tell it; `certain` where a lie would open something."""
        peer, _ = self.protocol.client or ("", 0)
        tell = proxies.certain if certain else proxies.client
        return tell(self.header(b"x-forwarded-for"), str(peer))

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
        headers, cycle = self.head.headers, self._cycle
        if not _is_json(headers.get(b"content-type", b"")):
            raise UnsupportedMediaType
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            raise BodyTooLarge(f"The body is larger than {most} bytes.")
        if self.whole and not (cycle.disconnected or cycle.waiting_for_100_continue):
            if len(cycle.body) > most:
                raise BodyTooLarge(f"The body is larger than {most} bytes.")
            return bytes(cycle.body)  # it came with the head, as small ones do
        self.waited = True
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

    async def _part(self) -> HTTPRequestEvent:
        part = await self._cycle.receive()
        if part["type"] != "http.request":
            raise ClientGone
        return part

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer as ASGI has it, for an application of that kind."""
        await self._cycle.send(cast("ASGISendEvent", message))

    async def receive(self) -> MutableMapping[str, Any]:
        """Wait until the client hangs up or is answered, for an application that has the body already."""
        if isinstance(self._cycle, Cycle):
            await asyncio.get_running_loop().create_future()  # it was a whole POST, and is not told of its end
        while (event := await self._cycle.receive())["type"] != "http.disconnect":
            pass
        return cast("MutableMapping[str, Any]", event)

    async def begin(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        """Begin an answer of unknown length; what follows is written by `Protocol.write_chunk`."""
        await self._start(status, headers + self.cors + self.told)

    async def end(self) -> None:
        """End an answer of unknown length."""
        await self._cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Answer with a whole body."""
        if self.protocol.answer(self._cycle, status, headers + self.cors + self.told, body):
            return
        await self._start(status, ((b"content-length", b"%d" % len(body)), *headers, *self.cors, *self.told))
        body = b"" if self.head.method == "HEAD" else body
        await self._cycle.send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, status: int, headers: Headers) -> None:
        await self._cycle.send({"type": "http.response.start", "status": status, "headers": headers})

    async def answer_json(self, status: int, value: object) -> None:
        """Answer with a JSON document that no cache keeps."""
        await self.answer(status, orjson.dumps(value), JSON, _NO_STORE)

    async def refuse(self, error: TrunklineError, request_id: bytes = b"null") -> None:
        """Answer with an error: a JSON-RPC error response as the body, on every path."""
        headers = [JSON, _NO_STORE]
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


@lru_cache(64)
def _is_json(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == b"application/json"


_USUAL_QUERY = 256
"""Bytes up to which a query is remembered with what was found in it."""


@lru_cache(1024)
def _parameter(query: bytes, name: str) -> str:
    """A parameter's first value; empty where it is missing."""
    try:
        found = parse_qs(query.decode("latin-1"), max_num_fields=32).get(name)
    except ValueError:
        raise InvalidMessage("The query has more than 32 parameters.") from None
    return found[0] if found else ""
