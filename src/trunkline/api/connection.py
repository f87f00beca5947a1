"""A client's connection as uvicorn serves it, and what it is spared: parsing, writes, timers, clients too slow."""

from __future__ import annotations

import asyncio
import typing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from trunkline.api.heads import LARGEST_HEAD, Head, Headers, KnownHeads, Piece
from trunkline.errors import INVALID_REQUEST, HeadTooLarge

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

_CLOSE = (b"connection", b"close")
CLIENT_GONE = "client gone"
_MOST_CORKED = 65_536
"""Bytes of one turn that a connection keeps from its transport: as many as the transport's high-water mark."""


class Held(typing.Protocol):
    """An answer that takes its time."""

    def end(self, reason: str) -> None:
        """Nobody waits for it any more."""


class Application(typing.Protocol):
    """What answers requests."""

    heads: KnownHeads

    async def __call__(self, head: Head, protocol: Protocol, cycle: RequestResponseCycle) -> None:
        """Answer one."""


class Cycle(RequestResponseCycle):
    """Request and response where the head is known and the body is there: uvicorn's, without what waits for more."""

    disconnected = False
    waiting_for_100_continue = False
    more_body = False
    response_started = False
    response_complete = False
    keep_alive = True
    access_log = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    scope = cast("HTTPScope", {"method": "POST", "headers": []})
    message_event = asyncio.Event()

    def __init__(self, protocol: Protocol, head: Head, body: bytes) -> None:
        self.head = head
        self.body = cast("bytearray", body)
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.default_headers = protocol.server_state.default_headers
        self.on_response = protocol.on_response_complete


class Corked:
    """A transport that sends what is written in one turn of the event loop at once, unless it is much.

    uvicorn writes the head and the body of an answer one after the other; each write is a system call, and on
    loopback and small answers the dearest part of a request. What is much goes on before the turn ends: the kernel
    takes what it has room for, and the transport tells of a client that does not keep up.
    """

    __slots__ = ("_corked", "_loop", "_transport", "_written", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing
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

    def write_at_once(self, data: bytes) -> None:
        """Send `data` now, unless something waits that was written before."""
        if self._written:
            self.write(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what was written, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written:
            written = b"".join(self._written)
            self._written.clear()
            self._corked = 0
            if not self.is_closing():  # the client has gone, or was cut off, since it was written
                self._transport.write(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also knows since when it waits for a head, and can stream without a task."""

    # Beside uvicorn's own attributes, whose dictionary would otherwise double for each connection.
    __slots__ = ("_between", "_last", "_stalled", "_unfinished", "body_since", "head_since", "held", "idle_since")

    app: Application

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
        self._between = True
        self._unfinished = 0
        self._last: Head | None = None
        self._stalled: tuple[int, float] | None = None
        self.head_since, self.body_since, self.idle_since = self.loop.time(), None, None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was hung up on."""
        super().connection_lost(exc)
        if self.held is not None:
            self.held.end(CLIENT_GONE)

    def data_received(self, data: bytes) -> None:
        """Bytes came. What is one whole request, with a head that came before, needs no parser."""
        if not (self._between and self._answered):
            self._parse(data)
            return
        body = self._last.body_behind(data) if self._last is not None else None
        if self._last is not None and body is not None:
            self._begin(self._last, body)
            return
        piece = Piece.of(data)
        if piece is None:
            self._parse(data)
        elif (known := self.app.heads.get(piece)) is not None:
            self._last = known
            self._begin(known, piece.body)
        else:
            before = self.cycle
            self._parse(data)
            self._learn(piece, before)

    def _parse(self, data: bytes) -> None:
        """Have the parser read what came, but no head without end: the piece in which one begins is not counted."""
        began = self.head_since
        super().data_received(data)
        self._unfinished = self._unfinished + len(data) if began is not None and began == self.head_since else 0
        if self._unfinished > LARGEST_HEAD and not self.transport.is_closing():
            error = HeadTooLarge()
            self._refuse(b"%d Request Header Fields Too Large" % error.status, error.code, error.message)

    @property
    def _answered(self) -> bool:
        """Whether a request that comes now is the next to be answered."""
        return self.cycle is None or (self.cycle.response_complete and self.cycle.keep_alive)

    def _begin(self, head: Head, body: bytes) -> None:
        self.head_since = self.idle_since = None
        self.cycle = Cycle(self, head, body)
        self._start_asgi_task(self.cycle, cast("Any", self.app))

    def _learn(self, piece: Piece, before: RequestResponseCycle | None) -> None:
        """Note what the parser made of a piece, if it took it for what it looks like."""
        cycle = self.cycle
        if cycle is not before and self._between and cycle.body == piece.body and cycle.keep_alive:
            self._last = self.app.heads.learn(piece, cycle.scope)
            cycle.head = self._last  # type: ignore[attr-defined]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: object) -> None:
        cycle.task = task = self.loop.create_task(self._run(cycle))  # type: ignore[attr-defined]
        self.tasks.add(task)

    async def _run(self, cycle: RequestResponseCycle) -> None:
        """Have a request answered; who has not got all of its answer loses the connection."""
        try:
            await self.app(getattr(cycle, "head", None) or Head(cycle.scope), self, cycle)
        finally:
            self.tasks.discard(cycle.task)  # type: ignore[attr-defined]
            if not cycle.response_complete and not cycle.disconnected:
                self.transport.close()

    def on_message_begin(self) -> None:
        """The first byte of a request is there."""
        super().on_message_begin()
        self._between = False
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
        self._between = True
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

    def answer(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> bool:
        """Write a whole answer at once; False, and nothing is written, where it takes `send` to do it right.

        So for answers that are the last on their connection, that have no body whatever their length says, or whose
        client does not keep up.
        """
        defaults = cycle.default_headers
        if (
            not cycle.keep_alive
            or cycle.disconnected
            or cycle.response_started
            or not self.keeps_up
            or cycle.scope["method"] == "HEAD"
            or _CLOSE in defaults
        ):
            return False
        cycle.response_started = cycle.response_complete = True
        cast("Corked", self.transport).write_at_once(
            b"%b%bcontent-length: %d\r\n%b\r\n%b"
            % (STATUS_LINE[status], _lines(tuple(defaults)), len(body), _lines(headers), body)
        )
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in JSON like every error."""
        self._refuse(b"400 Bad Request", INVALID_REQUEST, msg)

    def _refuse(self, status: bytes, code: int, message: str) -> None:
        body = orjson.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}})
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(body), body)
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

    def stalls(self, now: float, timeout: float) -> bool:
        """Whether the client has read nothing of an answer for so many seconds; to be asked now and then.

        A stream looks after its reader itself.
        """
        if self.keeps_up or self.held is not None:
            self._stalled = None
            return False
        if self._stalled is None or self.unread < self._stalled[0]:
            self._stalled = self.unread, now
        return now - self._stalled[1] > timeout

    async def drained(self) -> None:
        """Wait until the client keeps up again, or has gone."""
        await self.flow.drain()


@lru_cache(1024)
def _lines(headers: Headers) -> bytes:
    """Headers as they are written; most answers have the same."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)
