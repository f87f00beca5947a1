"""A load balancer that deals requests, not connections, in turn: no two messages of a client meet the same pod.

What clients and pods write goes through byte for byte, as it comes, either way: head, body and stream. A client that
hangs up is hung up on its pod at once. A pod that cannot be reached is passed over; one that is gone before a word of
its answer makes a 502, and in the middle of it, the end of the client's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from itertools import count

import httptools

BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"


class Balancer:
    """Listens on a port of 127.0.0.1 from the beginning; `ports` may be filled in later, and changed."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        """Where the pods listen, on 127.0.0.1."""
        self.dealt: dict[int, int] = {}
        """Requests that each port was given; one whose client hangs up before it got there had its turn, too."""
        self.port = 0
        self._turns = count()
        self._clients: set[_Client] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def turn(self) -> list[int]:
        """All ports, the next one first."""
        first = next(self._turns) % max(1, len(self.ports))
        return self.ports[first:] + self.ports[:first]

    def count(self, port: int) -> None:
        """A port was given a request."""
        self.dealt[port] = self.dealt.get(port, 0) + 1

    @contextlib.contextmanager
    def listening(self) -> Iterator[Balancer]:
        """Balance in a thread until the end of the block."""
        begun, ended = threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()

        async def listen() -> None:
            server = await loop.create_server(lambda: _Client(self, self._clients), "127.0.0.1", 0, backlog=1024)
            self.port = server.sockets[0].getsockname()[1]
            begun.set()
            await ended.wait()
            server.close()
            for client in list(self._clients):
                client.transport.abort()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(listen())

        thread = threading.Thread(target=run, name="balancer")
        thread.start()
        assert begun.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()


class _Client(asyncio.Protocol):
    """A client's connection: one exchange after the other."""

    transport: asyncio.Transport

    def __init__(self, balancer: Balancer, clients: set[_Client]) -> None:
        self._balancer = balancer
        self._clients = clients
        self._parser = httptools.HttpRequestParser(self)
        self.exchange: _Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._clients.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()
        if self.exchange is not None:
            self.exchange.send(data)

    def on_message_begin(self) -> None:
        if self.exchange is not None:  # nobody sends a request before the answer to the last
            self.transport.abort()
            return
        self.exchange = _Exchange(self, self._balancer)

    def connection_lost(self, error: Exception | None) -> None:
        self._clients.discard(self)
        if self.exchange is not None:
            self.exchange.abandon()

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.flow(reading=False)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.flow(reading=True)


class _Exchange(asyncio.Protocol):
    """One request at one pod, on a connection of its own."""

    def __init__(self, client: _Client, balancer: Balancer) -> None:
        self._client = client
        self._balancer = balancer
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] = []
        self._answered = self._complete = self._last = False
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for port in self._balancer.turn():
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", port)
            except OSError:
                continue
            except asyncio.CancelledError:
                self._balancer.count(port)
                raise
            self._balancer.count(port)
            return
        self._refuse()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.writelines(self._held)
        self._held.clear()

    def send(self, data: bytes) -> None:
        if self._transport is None:
            self._held.append(data)
        else:
            self._transport.write(data)

    def abandon(self) -> None:
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    def flow(self, *, reading: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.resume_reading if reading else self._transport.pause_reading)()

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
        self._client.transport.write(data)
        if self._complete:
            self._transport.close()
            self._end()

    def on_headers_complete(self) -> None:
        self._last = not self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self._complete = self._parser.get_status_code() >= 200  # an answer may follow "100 Continue"

    def connection_lost(self, error: Exception | None) -> None:
        if self._client.exchange is not self:
            return
        if self._answered:
            self._client.transport.abort()
        else:
            self._refuse()

    def _refuse(self) -> None:
        self._client.transport.write(BAD_GATEWAY)
        self._end()

    def _end(self) -> None:
        self._client.exchange = None
        if self._last:
            self._client.transport.close()
