"""HTTP/1.1 and server-sent events on bare asyncio protocols: requests, whose responses are whole or streams."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

CONNECT_TIMEOUT = 5.0
RESPONSE_TIMEOUT = 20.0
"""Seconds until a response is there, or begins where it is a stream."""
ENDED = "ended"
"""How a stream is over that its server ended in order."""
_IDLE = 3.0
"""Seconds after which a kept connection is not used any more: its server may be about to hang up."""


class NotSent(Exception):
    """Nobody listened: the request was certainly not sent."""


class NoResponse(Exception):
    """The connection broke, or nothing came in time: whether the request was carried out is unknown."""


class Event(NamedTuple):
    """One server-sent event."""

    kind: str
    id: str
    data: bytes


OnEvent = Callable[[Event], None]


class EventStream:
    """The events of one response (WHATWG HTML, section 9.2), each handed on as it comes."""

    def __init__(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[str] = loop.create_future()
        """Done, with the reason, when the stream has ended."""
        self.retry: float | None = None
        """Seconds after which the server wants the client back, where it said so."""
        self.heard_at = loop.time()
        """When something came last, be it a comment, by the loop's clock."""
        self._clock = loop.time
        self._connection = connection
        self._on_event: OnEvent | None = None
        self._early: list[Event] = []
        self._rest = b""
        self._kind, self._id = "message", ""
        self._data: list[bytes] = []

    def listen(self, on_event: OnEvent) -> None:
        """Hand what has come, and what comes from now on, to `on_event`."""
        early, self._early, self._on_event = self._early, [], on_event
        for event in early:
            on_event(event)

    def feed(self, body: bytes) -> None:
        """More of the body has come."""
        self.heard_at = self._clock()
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            self._line(line.removesuffix(b"\r"))

    def end(self, reason: str) -> None:
        """Nothing comes any more."""
        if not self.over.done():
            self.over.set_result(reason)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if self._data:
                self._came(Event(self._kind, self._id, b"\n".join(self._data)))
            self._kind, self._id, self._data = "message", "", []
        elif name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode()
        elif name == b"id":
            self._id = value.decode()
        elif name == b"retry":
            self.retry = int(value) / 1000

    def _came(self, event: Event) -> None:
        if self._on_event is None:
            self._early.append(event)
        else:
            self._on_event(event)


class Response(NamedTuple):
    """What a server said: all of it, or the head and a stream."""

    status: int
    headers: dict[bytes, bytes]
    """By name in lower case."""
    body: bytes = b""
    stream: EventStream | None = None

    @property
    def session(self) -> str:
        """The session that it names; empty where it names none."""
        return self.headers.get(b"mcp-session-id", b"").decode()

    @property
    def retry_after(self) -> float:
        """Seconds; 0 where it says nothing."""
        return float(self.headers.get(b"retry-after", 0))


class Connection(asyncio.Protocol):
    """One connection, for a request at a time."""

    def __init__(self) -> None:
        self.used_at = 0.0
        self.keep = True
        """Whether another request may follow."""
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._response: asyncio.Future[Response] | None = None
        self._stream: EventStream | None = None

    @classmethod
    async def open(cls, base: str) -> Connection:
        """Connect.

        Raises:
            NotSent: nobody listens there.
        """
        parts = urlsplit(base)
        host, port = parts.hostname or "", parts.port or 80
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return (await asyncio.get_running_loop().create_connection(cls, host, port))[1]
        except (OSError, TimeoutError) as error:
            raise NotSent(f"{base}: {error!r}") from error

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self._transport is not None

    async def ask(self, request: bytes) -> Response:
        """Send a request and wait for its response, or for the head of it where it is a stream.

        Raises:
            NoResponse: it did not come, or not to its end.
        """
        self._response = asyncio.get_running_loop().create_future()
        self._stream = None
        if self._transport is not None:
            self._transport.write(request)
        else:
            self._lost("closed before")
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                return await self._response
        except TimeoutError:
            raise NoResponse("no response in time") from None
        finally:
            if not self._response.done() or self._response.cancelled() or self._response.exception():
                self.close()

    def close(self) -> None:
        """Hang up without a word."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio and the parser call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self._lost(f"not HTTP: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost(repr(exc) if exc else "hung up")

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 200 and self._headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self._stream = EventStream(self)
            self._answer(Response(status, self._headers, b"", self._stream))

    def on_body(self, body: bytes) -> None:
        if self._stream is not None:
            self._stream.feed(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self.keep = bool(self._parser.should_keep_alive()) and self._stream is None
        if self._stream is not None:
            self._stream.end(ENDED)
            self.close()
        else:
            self._answer(Response(self._parser.get_status_code(), self._headers, b"".join(self._body)))

    def _answer(self, response: Response) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_result(response)

    def _lost(self, reason: str) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(NoResponse(reason))
        elif self._stream is not None:
            self._stream.end(reason)


class Pool:
    """POSTs of all clients, over connections that are kept for a moment."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, deque[Connection]] = defaultdict(deque)

    async def post(self, base: str, head: bytes, body: bytes) -> Response:
        """POST and wait for the response; `head` is the request's, from its first line on, without the length.

        Raises:
            NotSent: nobody listens there.
            NoResponse: it was sent, and no response came.
        """
        connection = self._take(base) or await Connection.open(base)
        answered = await connection.ask(b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body))
        if answered.stream is not None:
            return answered
        if connection.keep and connection.is_open:
            connection.used_at = asyncio.get_running_loop().time()
            self._idle[base].append(connection)
        else:
            connection.close()
        return answered

    def _take(self, base: str) -> Connection | None:
        idle, now = self._idle[base], asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if connection.is_open and now - connection.used_at < _IDLE:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Hang up what is kept."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


async def get(base: str, head: bytes) -> Response:
    """GET on a connection of its own; `head` lacks the last empty line.

    Raises:
        NotSent: nobody listens there.
        NoResponse: it was sent, and no response came.
    """
    connection = await Connection.open(base)
    response = await connection.ask(head + b"\r\n")
    if response.stream is None:
        connection.close()
    return response
