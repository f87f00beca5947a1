"""Station 7, deliver: the SSE streams that this pod holds, and how a message becomes an event on one.

Wire format: the WHATWG HTML standard, section 9.2, server-sent events. The `id` of a `message` event is
`<session>.<offset>`; a client that comes back with it as `Last-Event-ID` misses nothing.

What was accepted for a session and not answered yet is known here too, so that its client is answered even if all of
Redis is lost. Such answers have the id `<session>.lost`, from which no pod resumes: nothing can come twice.

What a stream has missed is read from its outbox in pages, the next one when its client has read on. For a reader
nothing is kept beyond the bounds: what they leave no room for is in the outbox, and comes with a later page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from trunkline.api.answered import Answered, lost_answers
from trunkline.api.auth import Identity
from trunkline.api.hold import Hold
from trunkline.api.http import Protocol
from trunkline.envelope import REPLACED, Accepted, Delivery
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.sessions import Attachment, Sent, Waiting

KEEP_ALIVE = b": keep-alive\n\n"
_GRACE = 8.0
"""Seconds after a call's deadline before this pod asks why there is no answer; by then it has been swept for long."""
_LOOK_AGAIN = 5.0
"""Seconds after which it asks again for a call that is overdue and pending still: the sweep is about to answer it."""
_NONE: AbstractSet[bytes] = frozenset()


class Stream:
    """One open SSE stream of a session: what was delivered, and what waits for a slow reader.

    Guarantee: offsets are delivered in order, each once. A stream that would have to skip one ends instead.
    """

    __slots__ = (
        "_answered", "_attachment", "_buffer", "_buffered", "_clock", "_flushing", "_metrics", "_protocol",
        "_settings", "_task", "doubtful", "ended", "expires_at", "generation", "hold", "last", "newest", "owner",
        "pending", "session", "slug", "touched", "wrote",
    )  # fmt: skip

    def __init__(
        self, identity: Identity, session: str, last: int, protocol: Protocol, settings: Settings, metrics: Metrics
    ) -> None:
        self.owner = identity.owner
        self.slug = identity.tenant.slug
        self.session = session
        self.last = last
        """The offset of the last message handed to the connection."""
        self.newest = last
        """The newest offset that is known to be in the outbox and did not come here, or was not kept."""
        self.generation = 1
        self.hold: Hold | None = None
        """What is kept back while earlier messages are read from the outbox."""
        self.pending: dict[bytes, tuple[float, bytes]] | None = None
        """By call: when to ask why it is not answered, by the loop's clock and in this order, and its JSON-RPC id.

        None where nothing is pending: an idle stream has no object for it.
        """
        self.doubtful: AbstractSet[bytes] = _NONE
        """Those of `pending` that the last look found to be neither pending nor answered in Redis."""
        self.expires_at = identity.principal.expires_at
        """Epoch seconds until which the key is valid that opened the stream."""
        self.ended = ""
        """Why the stream ends; empty while it is open."""
        self._clock = asyncio.get_running_loop().time
        self.touched = self.wrote = self._clock()
        """When the session's life was last renewed; `wrote`: when bytes were last written; by the loop's clock."""
        self._answered: Answered | None = None
        self._attachment: Attachment | None = None
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._flushing: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()
        self._protocol = protocol
        self._settings = settings
        self._metrics = metrics

    @property
    def behind(self) -> bool:
        """Whether the outbox is known to have messages that have not been handed to this stream."""
        return self.newest > self.last

    def hold_back(self) -> None:
        """Hold what comes until `release`."""
        self.hold = Hold(self._settings)

    def keep(self, arrived: Delivery | Accepted) -> None:
        """Keep what came while it is held; a message for which there is no room is one that the outbox has."""
        hold = self.hold
        if hold is None:
            return
        if isinstance(arrived, Accepted) or arrived.offset == 0:
            hold.arrived.append(arrived)
        elif arrived.offset <= self.last:  # only its tag is of use still
            hold.arrived.append(arrived._replace(body=b""))
        elif not hold.keep(arrived):
            self.newest = max(self.newest, arrived.offset)

    def release(self) -> None:
        """Deliver what was held and has its place now; the rest is in the outbox, and the stream `behind`."""
        hold, self.hold = self.hold, None
        for each in hold.arrived if hold is not None else ():
            if isinstance(each, Accepted):
                self.expect(each)
            elif not self.ended:
                self.take(each)

    def attach(self, attachment: Attachment) -> None:
        """Take over a session; what comes for it is held until `begin`."""
        self.generation = attachment.generation
        self.newest = max(self.newest, attachment.newest)
        self._attachment = attachment

    def begin(self, greeting: bytes) -> None:
        """Write the greeting, the first page of what was missed, and what came since; the response has begun."""
        self.write(greeting)
        if self._attachment is not None:
            self.catch_up(self._attachment.pending, self._attachment.missed)
            self._attachment = None
        self.release()

    def take(self, delivery: Delivery) -> bool:
        """Deliver a message or heed a signal; False if a message before it is missing, and this one is not taken."""
        if delivery.offset == 0:
            self.end("replaced" if delivery.tag == REPLACED else "session ended")
            return True
        if not self.deliver(delivery.offset, delivery.body, delivery.tag):
            return False
        if self.pending is not None:
            self.settle(delivery.tag)
        return True

    def deliver(self, offset: int, body: bytes, tag: bytes) -> bool:
        """Write a message; False if one before it is missing."""
        if offset != self.last + 1:
            self.newest = max(self.newest, offset)
            return offset <= self.last
        self.last = offset
        if b"." not in tag:  # else its call runs on
            if self._answered is None:
                self._answered = Answered()
            self._answered.note(tag)
        self._metrics.deliver_total.inc()
        if stations.on:
            stations.log("deliver", tenant=self.slug, session=self.session, offset=offset)
        self.write(b"id: %b.%d\nevent: message\ndata: %b\n\n" % (self.session.encode(), offset, body))
        return True

    def catch_up(self, pending: Sequence[Waiting], missed: Sequence[Sent]) -> None:
        """Take over what Redis knew at one moment, and the page of the outbox behind the last message.

        What was held may tell of requests accepted since that moment, and the outbox has all answers before the first
        that is held and new: so the requests come first, then the answers. Where the page is not the last, what is
        not pending in Redis any more may be answered behind it.
        """
        now = self._clock()
        due = {
            each.call: (now + (each.left + _GRACE if each.left else _LOOK_AGAIN), each.request_id) for each in pending
        }
        if self._short(missed):
            due = (self.pending or {}) | due
        for call in self.doubtful:
            due[call] = (now + _LOOK_AGAIN, (self.pending or {})[call][1])
        self.pending = dict(sorted(due.items(), key=lambda pair: pair[1][0])) or None
        hold = self.hold
        for each in hold.arrived if hold is not None else ():
            if isinstance(each, Accepted):
                self.expect(each)
        for sent in missed:
            self.deliver(sent.offset, sent.body, sent.tag)
            self.settle(sent.tag)
        if hold is not None:
            self._sift(hold)

    def _sift(self, hold: Hold) -> None:
        """Hold on only to what has to be delivered still, to this stream."""
        self.hold_back()
        for each in hold.arrived:
            if isinstance(each, Accepted):
                continue
            if 0 < each.offset <= self.last:
                self.settle(each.tag)
            elif each.generation == self.generation:  # what went to the stream before is in the outbox
                self.keep(each)

    def _short(self, missed: Sequence[Sent]) -> bool:
        """Whether more is in the outbox behind this page of it."""
        return self.newest > (missed[-1].offset if missed else self.last)

    # What is pending: the same as in Redis, which is asked before anything is concluded from it.

    def doubt(self, pending: Sequence[Waiting], missed: Sequence[Sent]) -> bool:
        """Note which calls Redis knows nothing of; whether one is among them that it knew nothing of last time.

        Once may be a cancellation that this pod is about to hear of. Twice, a Redis that came back without its last
        moments has lost the call, and nobody else will answer it.
        """
        before = self.doubtful
        self.doubtful = _NONE
        if self.pending and not self._short(missed):
            unknown = self.pending.keys() - {each.call for each in pending} - {each.tag for each in missed}
            self.doubtful = unknown or _NONE
        return not before.isdisjoint(self.doubtful)

    def contradicted(self, pending: Sequence[Waiting], missed: Sequence[Sent]) -> bool:
        """Whether Redis knows nothing of an answer that was delivered here."""
        return self._answered is not None and self._answered.contradicts(pending, missed)

    def recall(self, pending: Sequence[Waiting], newest: int) -> None:
        """Add what Redis knows to be pending: this pod may have missed that it was accepted."""
        if self._answered is not None:
            pending = self._answered.without(pending, self.last - newest)
        self.pending = {each.call: (0.0, each.request_id) for each in pending} | (self.pending or {}) or None

    def expect(self, accepted: Accepted) -> None:
        """A request was accepted: its answer is to come on this stream."""
        if self.pending is None:
            self.pending = {}
        self.pending[accepted.call] = (self._clock() + self._settings.call_timeout + _GRACE, accepted.request_id)

    def forget(self, call: bytes) -> None:
        """A call was taken back: it gets no answer."""
        if self.hold is not None:
            arrived = self.hold.arrived
            arrived[:] = [each for each in arrived if not (isinstance(each, Accepted) and each.call == call)]
        self.settle(call)

    def settle(self, tag: bytes) -> None:
        """A call was answered, or gave a sign of life, which moves its deadline."""
        pending = self.pending
        if pending is None:
            return
        if pending.pop(tag, None) is None:
            call = tag.partition(b".")[0]
            waiting = pending.pop(call, None)
            if waiting is not None:
                pending[call] = (self._clock() + self._settings.call_timeout + _GRACE, waiting[1])
        if not pending:
            self.pending = None

    def overdue(self, now: float) -> bool:
        """Whether a call should have been answered by now, by whoever answers overdue ones."""
        return self.pending is not None and next(iter(self.pending.values()))[0] <= now

    def lose(self, reason: str) -> int:
        """Answer what is pending with an error, since nobody else can any more, and end; returns how many it was."""
        pending, self.pending = self.pending or {}, None
        if self.ended:
            return 0
        if pending:
            self.write(lost_answers(self.session, (request_id for _, request_id in pending.values())))
            self._metrics.lost_answers_total.inc(len(pending))
        self.end(reason)
        return len(pending)

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
            self.end("slow reader")
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
        self._attaching: dict[str, list[Stream]] = {}
        self.catch_up: Callable[[Stream], None] = lambda _: None
        """What brings a stream up to date that has begun and is behind."""

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

    def hold_for(self, stream: Stream) -> None:
        """Let a stream that attaches its session hold what arrives for it, until `release`."""
        stream.hold_back()
        self._attaching.setdefault(stream.session, []).append(stream)

    def release(self, stream: Stream) -> None:
        """The session is attached, or it was refused."""
        attaching = self._attaching[stream.session]
        attaching.remove(stream)
        if not attaching:
            del self._attaching[stream.session]

    def hold(self, arrived: Delivery | Accepted) -> None:
        """Keep what arrived for the streams that are attaching its session."""
        name = arrived.session if isinstance(arrived, Accepted) else arrived.stream
        for stream in self._attaching.get(name, ()):
            stream.keep(arrived)
