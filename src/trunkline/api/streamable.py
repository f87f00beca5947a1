"""Streamable HTTP with sessions, revisions 2025-03-26 to 2025-11-25: POST, GET and DELETE of `/t/{tenant}/mcp`.

`initialize` opens a session. Each POST with requests has a stream of its own and is answered with that, as JSON or as
events. The GET opens the session's own stream, for what belongs to no call, or goes on with any stream of the session
by `Last-Event-ID`. Every request may meet another pod. A client that disconnects has taken nothing back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial

from trunkline.api.accept import Acceptor, new_call_id
from trunkline.api.auth import Authenticator, Identity
from trunkline.api.connection import CLIENT_GONE
from trunkline.api.connections import Connections
from trunkline.api.events import KEEP_ALIVE
from trunkline.api.exchange import Exchange, Form
from trunkline.api.http import Request
from trunkline.api.inbound import VERSION, begins_with_an_id
from trunkline.api.media import Accepts, accepted
from trunkline.api.messages import Message, Part, parse, parse_batch
from trunkline.api.stream import Stream
from trunkline.api.streaming import LastEvent, Streaming
from trunkline.errors import InvalidMessage, MissingSessionId, NotAcceptable, SessionNotFound, TrunklineError
from trunkline.metrics import Metrics
from trunkline.streams.calls import Opening, Place
from trunkline.streams.sessions import is_session_id, new_session_id, session_of, stream_name

INITIALIZE = "initialize"
_DEFAULT_VERSION = "2025-03-26"
"""Of a client that does not say which it speaks; and the only one with batches."""
ANSWER_WAIT = 0.2
"""Seconds after which an answer that has not come is to come on a stream, which can be resumed."""
_SESSION = b"mcp-session-id"


class StreamableTransport:
    """Answers the transport's address for every tenant."""

    def __init__(
        self,
        pod: str,
        authenticator: Authenticator,
        connections: Connections,
        streaming: Streaming,
        acceptor: Acceptor,
        metrics: Metrics,
    ) -> None:
        self._pod = pod
        self._settings = streaming.settings
        self._authenticator = authenticator
        self._connections = connections
        self._streaming = streaming
        self._acceptor = acceptor
        self._metrics = metrics

    # GET opens streams.

    async def get(self, request: Request) -> None:
        """Open a stream and hold it until the client leaves or the stream is ended."""
        self._streaming.check_draining()
        identity = await self._authenticator.identify(request, "http")
        if not accepted(request.header(b"accept")).events:
            raise NotAcceptable
        request.check_streamable()
        self._streaming.check_rate(identity)
        stream, last = self._wanted(request, identity)
        try:
            await self._streaming.attach(stream, last)
            # What was said to all streams while this one was being attached was not said to it.
            await self._streaming.check_open(identity)
            primed = begins_with_an_id(request.header(VERSION))
            await self._streaming.hold(request, stream, stream.priming() if primed else KEEP_ALIVE)
        finally:
            self._connections.remove(stream)
        if isinstance(stream, Exchange):
            self._acceptor.forget(stream)

    def _wanted(self, request: Request, identity: Identity) -> tuple[Stream, int | None]:
        session = _session_of(request)
        seen = request.header(b"last-event-id")
        if not seen:
            return self._streaming.stream(request, identity, session, 0), None
        last = LastEvent.parse(seen)
        if last is None or session_of(last.stream) != session:
            raise SessionNotFound
        if last.stream == session:
            return self._streaming.stream(request, identity, session, last.offset), last.offset
        # Who resumes has an id by now, whatever its version: it can be sent to yet another pod.
        rest = self._streaming.exchange(request, identity, last.stream, Form(json=False, primed=True), last.offset)
        rest.stream()
        return rest, last.offset

    # DELETE ends a session.

    async def delete(self, request: Request) -> None:
        """End a session, with all that its clients wait for."""
        identity = await self._authenticator.identify(request, "http")
        await self._acceptor.close(identity, _session_of(request))
        await request.answer(204, b"")

    # POST brings messages.

    async def post(self, request: Request) -> None:
        """Accept messages: what are requests is answered here, unless that is refused."""
        identity = await self._authenticator.identify(request, "http")
        takes = accepted(request.header(b"accept"))
        if not (takes.json or takes.events):
            raise NotAcceptable("This address answers application/json and text/event-stream.")
        version = request.header(VERSION) or _DEFAULT_VERSION
        body = await request.body(self._settings.max_body_bytes, self._settings.body_timeout)
        if request.waited:
            await self._authenticator.check_still(identity)
        read = parse_batch if version == _DEFAULT_VERSION else parse
        message = read(body, self._settings.max_json_elements)
        if isinstance(message, list):
            await self._take_batch(request, identity, message, takes)
            return
        try:
            if message.method == INITIALIZE and message.kind == "request" and not request.header(_SESSION):
                await self._open(request, identity, message, body, takes)
            elif message.kind == "request":
                await self._answer(request, identity, message, body, self._form(takes, version))
            else:
                await self._acceptor.take(request, identity, _session_of(request), message, body)
                await request.answer(202, b"")
        except TrunklineError as error:
            await self._acceptor.refuse(request, error, message)

    def _form(self, takes: Accepts, version: str, *, array: bool = False) -> Form:
        # Nothing stands against a stream where that is what a client would rather have.
        json = takes.json and not takes.prefers_events
        return Form(json, takes.events, array, primed=begins_with_an_id(version))

    async def _answer(self, request: Request, identity: Identity, message: Message, body: bytes, form: Form) -> None:
        session, call = _session_of(request), new_call_id()
        exchange = self._exchange(request, identity, session, call, form)
        exchange.wait_for(call, message.id)
        place = self._place(call, exchange.form)
        accept = partial(self._acceptor.enqueue, request, identity, session, message, body, call, place)
        await self._streaming.answer(request, exchange, accept, patience=ANSWER_WAIT)
        await self._streaming.conclude(request, exchange)
        self._acceptor.forget(exchange)

    async def _open(
        self, request: Request, identity: Identity, message: Message, body: bytes, takes: Accepts
    ) -> None:
        """Open a session by its first message; it stays if that is answered with a result."""
        session, call = new_session_id(), new_call_id()
        form = self._form(takes, str(message.params.get("protocolVersion", "")))
        exchange = self._exchange(request, identity, session, call, form)
        exchange.wait_for(call, message.id)
        opening = Opening(identity.caller, identity.most_sessions)
        place = self._place(call, exchange.form, opening)
        header = (_SESSION, session.encode())

        async def accept() -> None:
            await self._acceptor.enqueue(request, identity, session, message, body, call, place)
            self._metrics.sessions_opened_total.inc()

        await self._streaming.answer(request, exchange, accept, header, patience=ANSWER_WAIT)
        if exchange.streams:
            return
        if exchange.ended != CLIENT_GONE and exchange.whole and exchange.failure(message.id) is None:
            await self._streaming.conclude(request, exchange, 200, header)
            self._acceptor.forget(exchange)
            return
        # Nobody knows the session.
        await self._acceptor.abandon(identity, exchange)
        await self._streaming.conclude(request, exchange)

    def _exchange(self, request: Request, identity: Identity, session: str, call: str, form: Form) -> Exchange:
        exchange = self._streaming.exchange(request, identity, stream_name(session, call), form)
        if not exchange.form.json:
            exchange.stream()
        return exchange

    def _place(self, call: str, form: Form, opening: Opening | None = None) -> Place:
        return Place(call, self._pod, "http" if form.events else "json", opening)

    # Batches

    async def _take_batch(self, request: Request, identity: Identity, parts: Sequence[Part], takes: Accepts) -> None:
        """Accept each message of a batch by itself; a refused request is answered as such among the others."""
        session = _session_of(request)
        requests = [part for part in parts if not isinstance(part.message, Message) or part.message.kind == "request"]
        if not requests:
            await self._take_all(request, identity, session, parts)
            await request.answer(202, b"")
            return
        first = new_call_id()
        form = self._form(takes, _DEFAULT_VERSION, array=True)
        exchange = self._exchange(request, identity, session, first, form)
        calls = [first, *(new_call_id() for _ in requests[1:])]
        for call, part in zip(calls, requests, strict=True):
            request_id = part.message.id if isinstance(part.message, Message) else b"null"
            exchange.wait_for(call, request_id)

        async def accept() -> None:
            place = self._place(first, exchange.form)._replace(several=len(requests) > 1)
            others = [part for part in parts if part not in requests]
            outcomes = await asyncio.gather(
                *(
                    self._accept_part(request, identity, session, part, call, place)
                    for call, part in zip(calls, requests, strict=True)
                ),
                self._take_all(request, identity, session, others),
                return_exceptions=True,
            )
            _refuse_parts(exchange, calls, outcomes)

        await self._streaming.answer(request, exchange, accept, patience=ANSWER_WAIT)
        await self._streaming.conclude(request, exchange)
        self._acceptor.forget(exchange)

    async def _accept_part(
        self, request: Request, identity: Identity, session: str, part: Part, call: str, place: Place
    ) -> None:
        message = part.message
        if isinstance(message, InvalidMessage):
            raise message
        if message.method == INITIALIZE:
            raise InvalidMessage("initialize is not part of a batch; send it by itself.")
        await self._acceptor.enqueue(request, identity, session, message, part.body, call, place)

    async def _take_all(self, request: Request, identity: Identity, session: str, parts: Sequence[Part]) -> None:
        taking: list[Awaitable[None]] = [
            self._acceptor.take(request, identity, session, part.message, part.body)
            for part in parts
            if isinstance(part.message, Message)
        ]
        await asyncio.gather(*taking)


def _session_of(request: Request) -> str:
    """The session that a request names.

    Raises:
        MissingSessionId: none.
        SessionNotFound: what it names is no id of a session.
    """
    session = request.header(_SESSION)
    if not session:
        raise MissingSessionId("The header Mcp-Session-Id is missing; send initialize first, which opens a session.")
    if not is_session_id(session):
        raise SessionNotFound
    return session


def _refuse_parts(exchange: Exchange, calls: Sequence[str], outcomes: Sequence[BaseException | None]) -> None:
    """Answer those requests of a batch that were refused.

    Raises:
        TrunklineError: all were; the first reason.
    """
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, TrunklineError):
            raise outcome
    refused = [
        (call, error) for call, error in zip(calls, outcomes, strict=False) if isinstance(error, TrunklineError)
    ]
    if len(refused) == len(calls):
        raise refused[0][1]
    for call, error in refused:
        exchange.refuse(call.encode(), error)
