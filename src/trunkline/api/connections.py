"""Station 7, deliver: the SSE streams that this pod holds, and how a message becomes an event on one.

Wire format: the WHATWG HTML standard, section 9.2, server-sent events. The `id` of a `message` event is
`<session>.<offset>`; a client that comes back with it as `Last-Event-ID` misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from trunkline.api.auth import Identity
from trunkline.api.http import Protocol
from trunkline.envelope import REPLACED, Delivery
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.sessions import Attachment, Sent

KEEP_ALIVE = b": keep-alive\n\n"


class Stream:
    """One open SSE stream of a session: what was delivered, and what waits for a slow reader.

    Guarantee: offsets are delivered in order, each once. A stream that would have to skip one ends instead.
    """

    __slots__ = (
        "_buffer", "_buffered", "_clock", "_flushing", "_metrics", "_missed", "_protocol", "_settings", "_task",
        "ended", "expires_at", "generation", "hold", "last", "owner", "session", "slug", "touched", "wrote",
    )  # fmt: skip

    def __init__(
        self, identity: Identity, session: str, last: int, protocol: Protocol, settings: Settings, metrics: Metrics
    ) -> None:
        self.owner = identity.owner
        self.slug = identity.tenant.slug
        self.session = session
        self.last = last
        """The offset of the last message handed to the connection."""
        self.generation = 1
        self.hold: list[Delivery] | None = None
        """Deliveries kept back while earlier ones are read from the outbox."""
        self.expires_at = identity.principal.expires_at
        """Epoch seconds until which the key is valid that opened the stream."""
        self.ended = ""
        """Why the stream ends; empty while it is open."""
        self._clock = asyncio.get_running_loop().time
        self.touched = self.wrote = self._clock()
        """When the session's life was last renewed; `wrote`: when bytes were last written; by the loop's clock."""
        self._missed: Sequence[Sent] = ()
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._flushing: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()
        self._protocol = protocol
        self._settings = settings
        self._metrics = metrics

    def attach(self, attachment: Attachment) -> None:
        """Take over a session; what comes for it is held until `begin`."""
        self.generation = attachment.generation
        self._missed = attachment.missed

    def begin(self, greeting: bytes) -> None:
        """Write the greeting, what was missed, and what came since, in this order; the response has begun."""
        self.write(greeting)
        self.deliver_missed(self._missed)
        self._missed = ()
        held, self.hold = self.hold or [], None
        for delivery in held:
            if delivery.generation == self.generation:
                self.take(delivery)

    def take(self, delivery: Delivery) -> bool:
        """Deliver a message or heed a signal; False if a message before it is missing."""
        if delivery.offset == 0:
            self.end("replaced" if delivery.body == REPLACED else "session ended")
            return True
        return self.deliver(delivery.offset, delivery.body)

    def deliver(self, offset: int, body: bytes) -> bool:
        """Write a message; False if one before it is missing."""
        if offset != self.last + 1:
            return offset <= self.last
        self.last = offset
        self._metrics.deliver_total.inc()
        if stations.on:
            stations.log("deliver", tenant=self.slug, session=self.session, offset=offset)
        self.write(b"id: %b.%d\nevent: message\ndata: %b\n\n" % (self.session.encode(), offset, body))
        return True

    def deliver_missed(self, missed: Sequence[Sent]) -> None:
        """Write messages read from the outbox."""
        for sent in missed:
            self.deliver(sent.offset, sent.body)

    def write(self, event: bytes) -> None:
        """Send an event, or keep it until the client reads; one too slow for the bounds is disconnected."""
        if self.ended:
            return
        if not self._buffer and self._protocol.keeps_up:
            self._protocol.write_chunk(event)
            self.wrote = self._clock()
            return
        self._buffer.append(event)
        self._buffered += len(event)
        # One message may be larger than the buffer; it is never the first that makes a reader slow.
        if len(self._buffer) > 1 and (
            self._buffered > self._settings.stream_buffer_bytes
            or len(self._buffer) > self._settings.stream_buffer_messages
        ):
            self.end("slow reader")
        elif self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(self._settings.stream_write_timeout):
                await self._protocol.drained()
            self._write_buffered()
        except TimeoutError:
            self.end("slow reader")
        finally:
            self._flushing = None

    def _write_buffered(self, *more: bytes) -> None:
        rest = b"".join((*self._buffer, *more))
        self._buffer.clear()
        self._buffered = 0
        if rest:
            self._protocol.write_chunk(rest)
            self.wrote = self._clock()

    def end(self, reason: str) -> None:
        """End the stream; its request returns."""
        if not self.ended:
            self.ended = reason
            if self._task is not None:
                self._task.cancel()

    def part(self, farewell: bytes) -> None:
        """Write what is left; only after `end`, by the request that opened the stream."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._write_buffered(farewell)


class Connections:
    """All streams that this pod holds, by session."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._attaching: dict[str, list[list[Delivery]]] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    def add(self, stream: Stream) -> None:
        """A stream is open; one of the same session before it ends."""
        before = self._streams.get(stream.session)
        if before is not None and before.generation > stream.generation:
            stream.end("replaced")
            return
        self._streams[stream.session] = stream
        if before is not None:
            before.end("replaced")

    def remove(self, stream: Stream) -> None:
        """A stream has ended."""
        if self._streams.get(stream.session) is stream:
            del self._streams[stream.session]

    def get(self, session: str) -> Stream | None:
        """The stream of a session, if this pod holds it."""
        return self._streams.get(session)

    def hold_for(self, session: str) -> list[Delivery]:
        """Collect what arrives for a session that is being attached, until `release`."""
        held: list[Delivery] = []
        self._attaching.setdefault(session, []).append(held)
        return held

    def release(self, session: str, held: list[Delivery]) -> None:
        """The session is attached, or it was refused."""
        holders = self._attaching[session]
        holders[:] = [other for other in holders if other is not held]
        if not holders:
            del self._attaching[session]

    def hold(self, delivery: Delivery) -> None:
        """Keep a delivery for the requests that are attaching its session."""
        for held in self._attaching.get(delivery.session, ()):
            held.append(delivery)
