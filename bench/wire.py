"""HTTP/1.1 and SSE on bare asyncio protocols, so lean that the client leaves the cores to the servers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self, cast
from urllib.parse import SplitResult, urlsplit

import httptools

EVENT_STREAM = b"text/event-stream"


class WrongAnswerError(Exception):
    """A server refused, answered what was not asked, or hung up."""


class Events:
    """Takes server-sent events apart (WHATWG HTML, section 9.2): each one with data goes to `on_event`."""

    def __init__(self, on_event: Callable[[bytes, bytes], None]) -> None:
        self._on_event = on_event
        self._rest = b""
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, body: bytes) -> None:
        """Take the next bytes of the body."""
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            self._line(line.removesuffix(b"\r"))

    def _line(self, line: bytes) -> None:
        if not line:
            data = b"\n".join(self._data)
            if data:  # the event that primes a stream with an id has none
                self._on_event(self._name, data)
            self._name, self._data = b"", []
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            self._name = line[6:].removeprefix(b" ")


class Http(asyncio.Protocol):
    """One connection: writes requests, parses responses."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.closed = False

    @classmethod
    async def connect(cls, url: str, *args: object) -> Self:
        """A connection to where the URL points."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: cls(*args), parts.hostname, parts.port or 80)
        return protocol

    def write(self, data: bytes) -> None:
        """Send bytes at once."""
        assert self.transport is not None
        self.transport.write(data)

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


class Exchange:
    """One request and what came back."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.status = 0
        self.session = b""
        """The Mcp-Session-Id of the response."""
        self.message: asyncio.Future[bytes] = loop.create_future()
        """The body that was no stream, whole, else the first message of the stream."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the response has ended, or will not come any more."""

    def fail(self, error: WrongAnswerError) -> None:
        if not self.message.done():
            self.message.set_exception(error)
        if not self.ended.done():
            self.ended.set_result(None)


class Posts(Http):
    """A keep-alive connection; responses come in the order of the requests, as documents or as streams."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: WrongAnswerError | None = None
        self._waiting: deque[Exchange] = deque()
        self._events: Events | None = None
        self._body: list[bytes] = []

    def send(self, head: bytes, body: bytes) -> Exchange:
        """Send a request; `head` is without its end and the length of the body."""
        exchange = Exchange()
        self._waiting.append(exchange)
        self.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body))
        return exchange

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"mcp-session-id":
            self._waiting[0].session = value
        elif name == b"content-type" and value.startswith(EVENT_STREAM):
            self._events = Events(self._on_event)

    def on_headers_complete(self) -> None:
        self._waiting[0].status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._events is not None:
            self._events.feed(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        exchange = self._waiting.popleft()
        if not exchange.message.done():  # a document; of a stream, one without a message
            exchange.message.set_result(b"".join(self._body))
        self._events = None
        self._body.clear()
        exchange.ended.set_result(None)

    def _on_event(self, _name: bytes, data: bytes) -> None:
        message = self._waiting[0].message
        if message.done():
            self.fail(WrongAnswerError(f"behind the answer: {data[:300]!r}"))
        else:
            message.set_result(data)

    def fail(self, error: WrongAnswerError) -> None:
        if self._waiting or not self.closed:  # a server may hang up on a connection that waits for nothing
            self.fault = self.fault or error
        while self._waiting:
            self._waiting.popleft().fail(error)


class Stream(Http):
    """A GET: hands each SSE event to `on_event(name, data)`, and to `on_end` why there will be no more."""

    def __init__(self, on_event: Callable[[bytes, bytes], None], on_end: Callable[[WrongAnswerError], None]) -> None:
        super().__init__()
        self.on_end = on_end
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the response has begun, or will not."""
        self._events = Events(on_event)

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != 200:
            self.fail(WrongAnswerError(f"GET was answered with {status}"))
        self._begun()

    def on_body(self, body: bytes) -> None:
        self._events.feed(body)

    def fail(self, error: WrongAnswerError) -> None:
        self.on_end(error)
        self._begun()

    def _begun(self) -> None:
        if not self.begun.done():
            self.begun.set_result(None)


def target(parts: SplitResult) -> str:
    """What a request line says of a URL."""
    return parts._replace(scheme="", netloc="").geturl()
