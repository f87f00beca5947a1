"""Station 7, deliver: what a pod does with a stream from its first byte to its last, whatever the transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trunkline.api.auth import Authenticator, Identity, Throttle
from trunkline.api.connection import CLIENT_GONE
from trunkline.api.connections import Connections
from trunkline.api.events import DRAINING, HEADERS, SLOW_READER, EventStream
from trunkline.api.exchange import Exchange, Form, reason_of
from trunkline.api.http import JSON, Request
from trunkline.api.stream import Stream
from trunkline.errors import Draining, SessionNotFound
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.sessions import Sessions, is_stream_name


@dataclass(frozen=True, slots=True)
class LastEvent:
    """What a client says it has seen: the id of the last event, `<stream>.<offset>`."""

    stream: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> LastEvent | None:
        """Read an event id of ours; None for anything else."""
        stream, _, offset = text.rpartition(".")
        if not is_stream_name(stream) or not offset.isascii() or not offset.isdigit() or len(offset) > 15:
            return None
        return cls(stream, int(offset))


class Streaming:
    """Attaches streams to this pod, and holds them."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        sessions: Sessions,
        connections: Connections,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self._authenticator = authenticator
        self._sessions = sessions
        self._connections = connections
        self._metrics = metrics
        self._opening = Throttle("The tenant opens streams faster than its rate limit allows.")
        self.draining = False
        """Whether this pod is stopping and takes no new streams."""

    async def check_open(self, identity: Identity) -> None:
        """Refuse a stream that should not be open, or not here.

        Raises:
            Draining: this pod is stopping.
            TrunklineError: as for `Authenticator.check_still`.
        """
        await self._authenticator.check_still(identity)
        self.check_draining()

    def check_rate(self, identity: Identity) -> None:
        """Count a request for a stream against the tenant's rate.

        As many may come at once as the tenant may have sessions: all have to come back when their pod stops.

        Raises:
            TooManyRequests: the tenant asks this pod for streams faster than that.
        """
        limits = identity.tenant.limits
        self._opening.check(identity.tenant.id, limits.rate, max(limits.burst, limits.sessions))

    def check_draining(self) -> None:
        """Refuse a stream while this pod is stopping.

        Raises:
            Draining: it is.
        """
        if self.draining:
            raise Draining(retry_after=1)

    def stream(
        self, request: Request, identity: Identity, name: str, last: int, kind: type[Stream] = Stream
    ) -> Stream:
        """A stream that goes on after the message `last`, not open yet."""
        return kind(identity, name, last, request.protocol, self.settings, self._metrics)

    def exchange(self, request: Request, identity: Identity, name: str, form: Form, last: int = 0) -> Exchange:
        """The answer to a POST, which waits for nothing yet."""
        if request.head.version == "1.0":  # which has no way to send parts of unknown length and go on
            form = form._replace(json=True, events=False)
        return Exchange(identity, name, form, request.protocol, self.settings, self._metrics, last)

    async def attach(self, stream: Stream, last: int | None) -> None:
        """Take over a stream, to go on after the message `last`; None for a client that has seen none.

        Raises:
            SessionNotFound: there is none of that name, or not for its owner, or what its client missed is gone.
        """
        self._connections.hold_for(stream)
        try:
            stream.attach(await self._sessions.attach(stream.owner, stream.name, last))
            self._connections.add(stream)
        finally:
            self._connections.release(stream)
        if last is not None:
            self._metrics.sessions_resumed_total.inc()

    async def resume(self, request: Request, identity: Identity, seen: str, kind: type[Stream] = Stream) -> Stream:
        """The stream of the event that the client has seen last, attached.

        Raises:
            SessionNotFound: as for `attach`, or it is no event of ours.
        """
        last = LastEvent.parse(seen)
        if last is None:
            raise SessionNotFound
        stream = self.stream(request, identity, last.stream, last.offset, kind)
        await self.attach(stream, last.offset)
        return stream

    async def hold(
        self, request: Request, stream: EventStream, greeting: bytes, *headers: tuple[bytes, bytes]
    ) -> None:
        """Answer a request with a stream, until it ends."""
        request.check_streamable()
        request.hold(stream)
        if stream.ended == CLIENT_GONE:
            return
        self._metrics.active_connections.inc()
        try:
            await request.begin(200, *HEADERS, *headers)
            stream.begin(greeting)
            if isinstance(stream, Stream) and stream.behind:
                self._connections.catch_up(stream)
            # A stream lives for hours, what it began with need not.
            del greeting, headers
            request.forget()
            await stream.over
        finally:
            self._metrics.active_connections.dec()
            request.protocol.held = None
        await self._part(request, stream)

    async def answer(
        self,
        request: Request,
        exchange: Exchange,
        accept: Callable[[], Awaitable[None]],
        *headers: tuple[bytes, bytes],
        patience: float | None = None,
    ) -> None:
        """Hold a POST while it is accepted and answered; where its answer is a stream, all of that.

        Args:
            request: The POST.
            exchange: Its answer.
            accept: Accepts what it brings; the exchange can be answered from when this is called.
            headers: Those of a stream's head.
            patience: Seconds after which an answer that has not come is to come on a stream.

        Raises:
            TrunklineError: what `accept` raised.
        """
        timer: asyncio.TimerHandle | None = None
        exchange.known = False
        self._connections.add(exchange)
        try:
            request.hold(exchange)
            await accept()
            exchange.known = True
            if exchange.behind:
                self._connections.catch_up(exchange)
            if patience is not None and not exchange.ended:
                timer = asyncio.get_running_loop().call_later(patience, self._decide, exchange)
            if not exchange.streams:
                await exchange.over
            if exchange.streams:
                await self.hold(request, exchange, exchange.greeting(), *headers)
        finally:
            if timer is not None:
                timer.cancel()
            request.protocol.held = None
            self._connections.remove(exchange)

    def _decide(self, exchange: Exchange) -> None:
        if self.draining:
            exchange.leave()
        exchange.stream()

    async def conclude(
        self, request: Request, exchange: Exchange, status: int = 200, *headers: tuple[bytes, bytes]
    ) -> None:
        """Answer a POST with what came, unless it was answered with a stream.

        Raises:
            TrunklineError: why nothing will come.
        """
        if exchange.streams or exchange.ended == CLIENT_GONE:
            return
        if not exchange.whole:
            raise reason_of(exchange.ended)
        await request.answer(status, exchange.document, JSON, *headers)

    async def _part(self, request: Request, stream: EventStream) -> None:
        if stream.ended == CLIENT_GONE:
            return
        if stream.ended == SLOW_READER:
            self._metrics.slow_readers_total.inc()
            request.abort()
            return
        stream.part()
        await request.end()

    def drain(self) -> None:
        """Take no new streams, and send the clients of the open ones to other pods."""
        self.draining = True
        for stream in self._connections:
            stream.leave()

    def give_up(self) -> None:
        """Answer what this pod holds still with an error: nobody else can, and there is no more time."""
        for stream in self._connections.streams():
            stream.leave()
            stream.lose(DRAINING)
