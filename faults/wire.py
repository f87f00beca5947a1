"""HTTP/1.1 and server-sent events on bare asyncio protocols: POSTs over kept connections, and the stream."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import httptools

CONNECT_TIMEOUT = 5.0
RESPONSE_TIMEOUT = 20.0
"""Seconds for a response to a POST or for the head of a stream."""
_IDLE = 3.0
"""Seconds after which a kept connection is not used any more: its server may be about to hang up."""


class NotSent(Exception):
    """Nobody listened: the request was certainly not sent."""


class NoResponse(Exception):
    """The connection broke, or nothing came in time: whether the request was carried out is unknown."""


class Head(NamedTuple):
    """What a response says before its body."""

    status: int
    retry_after: float
    """Seconds; 0 where it says nothing."""


class _Http(asyncio.Protocol):
    """One connection, its transport, and the head of the response that is being read."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.retry_after = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self.lost(f"not HTTP: {error!r}")

    def on_message_begin(self) -> None:
        self.retry_after = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = float(value)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.lost(repr(exc) if exc else "hung up")

    def lost(self, reason: str) -> None:
        raise NotImplementedError

    def head(self) -> Head:
        return Head(self.parser.get_status_code(), self.retry_after)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


Made = TypeVar("Made", bound=_Http)


class _Posting(_Http):
    """A connection for one POST at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.used_at = 0.0
        self.keep = True
        self._response: asyncio.Future[Head] | None = None

    async def post(self, request: bytes) -> Head:
        self._response = asyncio.get_running_loop().create_future()
        self.write(request)
        if self.transport is None:
            self.lost("closed before")
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                return await self._response
        except TimeoutError:
            self.close()
            raise NoResponse("no response in time") from None

    def on_message_complete(self) -> None:
        self.keep = bool(self.parser.should_keep_alive())
        if self._response is not None and not self._response.done():
            self._response.set_result(self.head())

    def lost(self, reason: str) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(NoResponse(reason))


class Pool:
    """POSTs of all clients, over connections that are kept for a moment."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, deque[_Posting]] = defaultdict(deque)

    async def post(self, base: str, head: bytes, body: bytes) -> Head:
        """POST and wait for the response; `head` is the request's, from its first line on, without the length.

        Raises:
            NotSent: nobody listens there.
            NoResponse: it was sent, and no response came.
        """
        connection = self._take(base)
        if connection is None:
            _, connection = await _connect(base, _Posting)
        answered = await connection.post(b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body))
        if connection.keep and connection.transport is not None:
            connection.used_at = asyncio.get_running_loop().time()
            self._idle[base].append(connection)
        else:
            connection.close()
        return answered

    def _take(self, base: str) -> _Posting | None:
        idle, now = self._idle[base], asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if connection.transport is not None and now - connection.used_at < _IDLE:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Hang up what is kept."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class Event(NamedTuple):
    """One server-sent event."""

    kind: str
    id: str
    data: bytes


class EventStream(_Http):
    """A GET of a stream: hands each event to `on_event` as it comes."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._on_event = on_event
        self.begun: asyncio.Future[Head] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()
        """Done, with the reason, when the stream has ended."""
        self.retry: float | None = None
        """Seconds after which the server wants the client back, where it said so."""
        self.heard_at = loop.time()
        self._clock = loop.time
        self._rest = b""
        self._kind, self._id = "message", ""
        self._data: list[bytes] = []

    @classmethod
    async def open(cls, base: str, head: bytes, on_event: Callable[[Event], None]) -> tuple[Head, EventStream]:
        """Send the GET, whose `head` lacks the last empty line, and wait for the head of the response.

        Raises:
            NotSent: nobody listens there.
            NoResponse: no response came.
        """
        _, stream = await _connect(base, lambda: cls(on_event))
        stream.write(head + b"\r\n")
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                return await stream.begun, stream
        except TimeoutError:
            stream.close()
            raise NoResponse("no response in time") from None

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        if not self.begun.done():
            self.begun.set_result(self.head())

    def on_body(self, body: bytes) -> None:
        if self.parser.get_status_code() != 200:
            return
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            self._line(line.removesuffix(b"\r"))

    def on_message_complete(self) -> None:
        self.close()
        self.lost("ended")

    def lost(self, reason: str) -> None:
        if not self.begun.done():
            self.begun.set_exception(NoResponse(reason))
        if not self.over.done():
            self.over.set_result(reason)

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if self._data:
                self._on_event(Event(self._kind, self._id, b"\n".join(self._data)))
            self._kind, self._id, self._data = "message", "", []
        elif name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode()
        elif name == b"id":
            self._id = value.decode()
        elif name == b"retry":
            self.retry = int(value) / 1000


async def _connect(base: str, make: Callable[[], Made]) -> tuple[asyncio.BaseTransport, Made]:
    parts = urlsplit(base)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await asyncio.get_running_loop().create_connection(make, parts.hostname or "", parts.port or 80)
    except (OSError, TimeoutError) as error:
        raise NotSent(f"{base}: {error!r}") from error
