"""Server-sent events: how they are written, and a response that is made of them.

Wire format: the WHATWG HTML standard, section 9.2. Nothing is kept for a reader beyond the bounds: one too slow
for them is disconnected.
"""

from __future__ import annotations

import asyncio
import random

from trunkline.api.auth import Identity
from trunkline.api.connection import Protocol
from trunkline.api.heads import Headers
from trunkline.settings import Settings

HEADERS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
KEEP_ALIVE = b": keep-alive\n\n"
SLOW_READER = "slow reader"
REPLACED = "replaced"
POLL = "come back"
SESSION_ENDED = "session ended"
KEY_REVOKED = "key revoked"
KEY_EXPIRED = "key expired"
TENANT_CHANGED = "tenant changed"
REDIS_LOST = "redis lost"
MESSAGES_LOST = "messages lost"
DRAINING = "draining"
_RETRY_MS = (250, 2_000)
"""Within which span a client is told to come back when its pod stops, so that they do not all come at once."""


def event(body: bytes, name: bytes = b"") -> bytes:
    """A message as an event, with an id where it can be resumed."""
    if name:
        return b"id: %b\nevent: message\ndata: %b\n\n" % (name, body)
    return b"event: message\ndata: %b\n\n" % body


def priming(name: bytes) -> bytes:
    """The event without data that a stream begins with, so that it can be resumed from its start (2025-11-25)."""
    return b"id: %b\n%bdata: \n\n" % (name, retry())


def retry() -> bytes:
    """The line that says after which time a client may come back."""
    return b"retry: %d\n" % random.randint(*_RETRY_MS)  # noqa: S311 - jitter


class EventStream:
    """One response made of events: what its client is sent, and what waits while it does not read."""

    __slots__ = (
        "_buffer", "_buffered", "_clock", "_flushing", "_protocol", "_settings", "ended", "expires_at", "kid",
        "over", "owner", "slug", "wrote",
    )  # fmt: skip

    def __init__(self, identity: Identity, protocol: Protocol, settings: Settings) -> None:
        self.owner = identity.owner
        self.slug = identity.tenant.slug
        self.expires_at = identity.principal.expires_at
        """Epoch seconds until which the key is valid that opened the stream."""
        self.kid = identity.principal.kid
        """The signing key on which that key hangs; empty for public access."""
        self.ended = ""
        """Why the stream ends; empty while it is open."""
        loop = protocol.loop
        self.over: asyncio.Future[None] = loop.create_future()
        """Done when the stream ends, by its pod or its client; what its request waits for."""
        self._clock = loop.time
        self.wrote = self._clock()
        """When bytes were last written, by the loop's clock."""
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._flushing: asyncio.Task[None] | None = None
        self._protocol = protocol
        self._settings = settings

    def write(self, event: bytes) -> None:
        """Send an event, or keep it until the client reads; one too slow for the bounds is disconnected."""
        if not self.ended:
            self._put(event)

    def _put(self, event: bytes) -> None:
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
            self.end(SLOW_READER)
        elif self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def ready(self) -> None:
        """Wait until the client keeps up and nothing is kept for it, or the stream has ended."""
        while not self.ended and (self._buffer or not self._protocol.keeps_up):
            if self._flushing is None:
                self._flushing = asyncio.create_task(self._flush())
            await asyncio.wait({self._flushing})

    async def _flush(self) -> None:
        try:
            while not await self._drained():
                pass
            self._write_buffered()
        except TimeoutError:
            self.end(SLOW_READER)
        finally:
            self._flushing = None

    async def _drained(self) -> bool:
        """Wait until the client keeps up; False when it has only read on.

        Raises:
            TimeoutError: it has read nothing for STREAM_WRITE_TIMEOUT.
        """
        unread = self._protocol.unread
        try:
            async with asyncio.timeout(self._settings.stream_write_timeout):
                await self._protocol.drained()
        except TimeoutError:
            if self._protocol.unread >= unread:
                raise
            return False
        return True

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
            if not self.over.done():
                self.over.set_result(None)

    def begin(self, greeting: bytes) -> None:
        """Write the first event; the response has begun."""
        self._put(greeting)

    def leave(self) -> None:
        """End the stream, since its pod stops, if its client can go on elsewhere."""
        self.end(DRAINING)

    def part(self) -> None:
        """Write what is left and why it ends; only after `end`, by the request that the stream answers."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._write_buffered(self.farewell())

    def farewell(self) -> bytes:
        """What the stream ends with: a comment, and when to come back where another pod goes on."""
        comment = b": %b\n\n" % self.ended.encode()
        return retry() + comment if self.ended in {DRAINING, POLL} else comment
