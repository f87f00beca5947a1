"""The answer to a POST of streamable HTTP: a JSON document, or a stream of events where more than the answer comes.

Which of them is open while nothing has been written: the POST is held. An answer that comes first is a document. A
message that comes before it, or time that passes without one, makes a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from trunkline.api import events
from trunkline.api.auth import Identity
from trunkline.api.connection import Protocol
from trunkline.api.events import DRAINING, KEEP_ALIVE, POLL, REPLACED, event, priming
from trunkline.api.http import error_response
from trunkline.api.stream import LOST, Stream
from trunkline.envelope import Accepted
from trunkline.errors import Forbidden, SessionNotFound, TrunklineError, Unauthorized
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.sessions import Sent, Waiting

ANSWERED = "answered"
"""Why an exchange ends as it should."""
_GOES_ON = frozenset({DRAINING, POLL, REPLACED})
"""Why an exchange ends of which another connection has the rest."""


class Form(NamedTuple):
    """What an answer may look like."""

    json: bool = True
    """Whether the client takes a JSON document."""
    events: bool = True
    """Whether it takes a stream."""
    array: bool = False
    """Whether the document is a list of answers: to a batch."""
    numbered: bool = True
    """Whether events have ids, from which the stream can be resumed."""
    primed: bool = False
    """Whether the stream begins with an id, so that it can be resumed before any message."""


class Exchange(Stream):
    """The stream of a POST, which ends with the last answer.

    Guarantee: each request that is expected is answered in the response once, or the response says nothing of it.
    """

    __slots__ = ("_begun", "_first", "_leaving", "_refused", "_waiting", "form", "streams")

    def __init__(
        self,
        identity: Identity,
        name: str,
        form: Form,
        protocol: Protocol,
        settings: Settings,
        metrics: Metrics,
        last: int = 0,
    ) -> None:
        super().__init__(identity, name, last, protocol, settings, metrics)
        self.form = form
        self.streams = False
        """Whether it was decided that the answer is a stream; then there is a new future `over`."""
        self._first = last
        self._begun = False
        self._leaving = False
        self._refused: set[bytes] = set()
        self._waiting: list[tuple[bytes, bytes]] = []
        """What came before the response has begun: the place and the body of each message."""

    @property
    def whole(self) -> bool:
        """Whether everything was answered."""
        return self.pending is None and (self.streams or bool(self._waiting))

    @property
    def document(self) -> bytes:
        """The answers as one JSON document."""
        if self.form.array:
            return b"[%b]" % b",".join(body for _, body in self._waiting)
        return self._waiting[0][1]

    def failure(self, request_id: bytes) -> int | None:
        """The code of the error that a request is answered with in the document; None where it is a result."""
        answer = self.document
        if answer.startswith(b'{"jsonrpc":"2.0","id":%b,"result":' % request_id):
            return None
        error = orjson.loads(answer).get("error")
        return int(error["code"]) if error else None

    @property
    def resumable(self) -> bool:
        """Whether the client can ask another pod for the rest, having an id to ask with."""
        return self.form.events and self.form.numbered and (self.form.primed or (self.streams and self.last > 0))

    def stream(self) -> None:
        """Decide on a stream, if the client takes one; its request returns from waiting for `over`."""
        if self.form.events and not (self.streams or self.ended):
            self.streams = True
            over, self.over = self.over, asyncio.get_running_loop().create_future()
            over.set_result(None)

    def greeting(self) -> bytes:
        """What a stream begins with."""
        return self.priming() if self.form.primed else b""

    def priming(self) -> bytes:
        """As it begins: what came before the response has begun is told behind it."""
        return priming(b"%b.%d" % (self.name.encode(), self._first))

    def begin(self, greeting: bytes) -> None:
        """Write what has come so far; the response has begun, as a stream."""
        self._begun = True
        waiting, self._waiting = self._waiting, []
        said = b"".join(event(body, self._event_id(place)) for place, body in waiting)
        super().begin(greeting + said or KEEP_ALIVE)
        self._end_if_answered()

    def wait_for(self, call: str, request_id: bytes) -> None:
        """A request is about to be accepted, whose answer this is to have."""
        self.expect(Accepted(self.name, call.encode(), request_id))

    def refuse(self, call: bytes, error: TrunklineError) -> None:
        """Answer one of several requests with the reason for which it was not accepted."""
        waiting = (self.pending or {}).get(call)
        if waiting is None:  # it had been accepted after all, and was answered
            return
        self._refused.add(call)
        # Without an id on a stream: that goes on, and is resumed from before.
        self.emit(b"", error_response(error, waiting[1]), final=True)
        self.settle(call)

    def wants(self, tag: bytes) -> bool:
        """Whether a message is of a request that was not refused: it may have been accepted after all."""
        return not self._refused or tag.partition(b".")[0] not in self._refused

    def emit(self, place: bytes, body: bytes, *, final: bool) -> None:
        """Send a message, or keep it until the form of the response is decided."""
        if self._begun:
            self.write(event(body, self._event_id(place)))
        elif final or self.form.events:
            self._waiting.append((place, body))
            if not final:
                self.stream()

    def write(self, event: bytes) -> None:
        """Send an event; a sign of life from one that is undecided is that its response begins."""
        if self._begun:
            super().write(event)
        else:
            self.stream()

    def catch_up(self, pending: Sequence[Waiting], missed: Sequence[Sent]) -> None:
        """Take over what Redis knew at one moment, and a page of the outbox."""
        super().catch_up(pending, missed)
        self._end_if_answered()

    def settle(self, tag: bytes) -> None:
        """A call was answered, or gave a sign of life; after the last answer the stream ends."""
        super().settle(tag)
        self._end_if_answered()
        if self._leaving:
            self.leave()

    def end(self, reason: str) -> None:
        """End the exchange; where its client is to come back, as a stream that says from where."""
        if reason == POLL:
            if not self.resumable:
                return
            self.stream()
        super().end(reason)

    def leave(self) -> None:
        """End, since the pod stops, as soon as another one can go on; until then what has begun goes on here."""
        self._leaving = True
        if self.resumable:
            self.stream()
            self.end(DRAINING)

    def farewell(self) -> bytes:
        """What the stream ends with; what nobody will answer any more is answered with the reason."""
        if self.ended == ANSWERED:
            return b""
        if self.ended in _GOES_ON:
            return super().farewell()
        error = reason_of(self.ended)
        pending = (self.pending or {}).values()
        return b"".join(event(error_response(error, request_id), self._event_id(LOST)) for _, request_id in pending)

    def _event_id(self, place: bytes) -> bytes:
        return b"%b.%b" % (self.name.encode(), place) if self.form.numbered and place else b""

    def _end_if_answered(self) -> None:
        if self.pending is None and not self.behind and (self._begun or self._waiting):
            self.end(ANSWERED)


def reason_of(ended: str) -> TrunklineError:
    """Why an exchange has ended that was not answered, as an error."""
    match ended:
        case events.KEY_REVOKED | events.KEY_EXPIRED:
            return Unauthorized("This API key has expired or was revoked; issue a new one.")
        case events.TENANT_CHANGED:
            return Forbidden("This tenant was suspended, or wants an API key now.")
        case events.SESSION_ENDED:
            return SessionNotFound()
        case _:
            return TrunklineError(f"The answer did not come: {ended}.")
