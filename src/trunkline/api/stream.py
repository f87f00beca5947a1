"""Station 7, deliver: the streams of sessions, and how a message becomes an event on one.

The `id` of an event is `<stream>.<offset>`; a client that comes back with it as `Last-Event-ID` misses nothing.

What was accepted for a stream and not answered yet is known here too, so that its client is answered even if all of
Redis is lost. Such answers have the id `<stream>.lost`, from which no pod resumes: nothing can come twice.

What a stream has missed is read from its outbox in pages, the next one when its client has read on. What the bounds
of a slow reader leave no room for is in the outbox, and comes with a later page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from trunkline.api.answered import Answered, lost_answer
from trunkline.api.auth import Identity
from trunkline.api.connection import Protocol
from trunkline.api.events import POLL, REPLACED, SESSION_ENDED, EventStream, event, priming
from trunkline.api.hold import Hold
from trunkline.envelope import POLL as TO_POLL
from trunkline.envelope import REPLACED as WAS_REPLACED
from trunkline.envelope import Accepted, Delivery, accepted_at
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.sessions import Attachment, Sent, Waiting, session_of

_GRACE = 8.0
"""Seconds after a call's deadline before this pod asks why there is no answer; by then it has been swept for long."""
LOST = b"lost"
"""What stands for the offset of a message that no outbox has."""
_LOOK_AGAIN = 5.0
"""Seconds after which it asks again for a call that is overdue and pending still: the sweep is about to answer it."""
_NONE: AbstractSet[bytes] = frozenset()
_SIGNALS = {WAS_REPLACED: REPLACED, TO_POLL: POLL}


class Stream(EventStream):
    """One open stream of a session: what was delivered on it, and what its client waits for.

    Guarantee: offsets are delivered in order, each once. A stream that would have to skip one ends instead.
    """

    __slots__ = (
        "_answered", "_attachment", "_metrics", "doubtful", "generation", "hold", "known", "last", "name", "newest",
        "pending", "touched",
    )  # fmt: skip

    def __init__(
        self, identity: Identity, name: str, last: int, protocol: Protocol, settings: Settings, metrics: Metrics
    ) -> None:
        super().__init__(identity, protocol, settings)
        self.name = name
        """The session's id, for its own stream; for any other a dot follows, and what tells it from the rest."""
        self.last = last
        """The offset of the last message handed to the connection."""
        self.newest = last
        """The newest offset that is known to be in the outbox and did not come here, or was not kept."""
        self.known = True
        """Whether Redis has a record of this stream, or had: not before the POST that it belongs to is accepted."""
        self.generation = 1
        self.hold: Hold | None = None
        """What is kept back while earlier messages are read from the outbox."""
        self.pending: dict[bytes, tuple[float, bytes]] | None = None
        """By call: when to ask why it is not answered, by the loop's clock and in this order, and its JSON-RPC id.

        None where nothing is pending: an idle stream has no object for it.
        """
        self.doubtful: AbstractSet[bytes] = _NONE
        """Those of `pending` that the last look found to be neither pending nor answered in Redis."""
        self.touched = self.wrote
        """When the session's life was last renewed, by the loop's clock."""
        self._answered: Answered | None = None
        self._attachment: Attachment | None = None
        self._metrics = metrics

    @property
    def session(self) -> str:
        """The session that the stream belongs to."""
        return session_of(self.name)

    @property
    def behind(self) -> bool:
        """Whether the outbox is known to have messages that have not been handed to this stream."""
        return self.newest > self.last

    def suspect(self) -> None:
        """Something may have been lost on its way here."""
        self.newest = max(self.newest, self.last + 1)

    def priming(self) -> bytes:
        """An event without a message, for a client that is to know from where to resume (2025-11-25)."""
        return priming(b"%b.%d" % (self.name.encode(), self.last))

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
        """Take over the stream; what comes for it is held until `begin`."""
        self.generation = attachment.generation
        self.last = attachment.last
        self.newest = max(self.newest, attachment.newest)
        self._attachment = attachment

    def begin(self, greeting: bytes) -> None:
        """Write the greeting, the first page of what was missed, and what came since; the response has begun."""
        super().begin(greeting)
        if self._attachment is not None:
            self.catch_up(self._attachment.pending, self._attachment.missed)
            self._attachment = None
        self.release()

    def take(self, delivery: Delivery) -> bool:
        """Deliver a message or heed a signal; False if a message before it is missing, and this one is not taken."""
        if delivery.offset == 0:
            self.end(_SIGNALS.get(delivery.tag, SESSION_ENDED))
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
        final = b"." not in tag  # else its call runs on
        if final:
            if self._answered is None:
                self._answered = Answered()
            self._answered.note(tag)
        if not self.wants(tag):
            return True
        self._metrics.deliver_total.inc()
        if final:
            self._metrics.deliver_seconds.observe(time.time() - accepted_at(tag))
        if stations.on:
            stations.log("deliver", tenant=self.slug, session=self.name, offset=offset)
        self.emit(b"%d" % offset, body, final=final)
        return True

    def wants(self, tag: bytes) -> bool:
        """Whether anybody waits for a message; where nobody does, it has its offset and is not sent."""
        return True

    def emit(self, place: bytes, body: bytes, *, final: bool) -> None:
        """Send a message, which is the answer of a call where it is `final`."""
        self.write(event(body, b"%b.%b" % (self.name.encode(), place)))

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
        """A request was accepted: its answer is to come on this stream, unless it was read before this was heard."""
        if self._answered is not None and accepted.call in self._answered:
            return
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
        if self.ended:
            return 0
        pending, self.pending = self.pending or {}, None
        if pending:
            for _, request_id in pending.values():
                self.emit(LOST, lost_answer(request_id), final=True)
            self._metrics.lost_answers_total.inc(len(pending))
        self.end(reason)
        return len(pending)
