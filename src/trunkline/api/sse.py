"""The HTTP+SSE transport of MCP revision 2024-11-05: `GET /t/{tenant}/sse` and `POST /t/{tenant}/messages`.

The GET opens a session, or resumes one by `Last-Event-ID` on whichever pod the client meets; the POST may meet
any other pod. What a client posts is accepted (station 1), enqueued (2), and answered 202; its answer comes on the
stream.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

import orjson
import uuid_utils

from trunkline.api.auth import Authenticator, Identity
from trunkline.api.connections import Connections, Stream
from trunkline.api.http import Request
from trunkline.api.messages import Message as Envelope
from trunkline.api.messages import parse
from trunkline.audit.seed import TOOL_CALL, seed
from trunkline.errors import (
    Draining,
    Forbidden,
    InvalidMessage,
    MissingSessionId,
    NotAcceptable,
    SessionNotFound,
    TrunklineError,
)
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.streams.calls import Calls, Message
from trunkline.streams.client import Redis
from trunkline.streams.control import CallCancelled, announce
from trunkline.streams.sessions import Sessions, is_session_id, new_session_id
from trunkline.tenants.model import SCOPE_CALL

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_PLAIN = (b"content-type", b"text/plain; charset=utf-8")
_RETRY_MS = (250, 2_000)
"""Within which span a client is told to come back when its pod stops, so that they do not all come at once."""


@dataclass(frozen=True, slots=True)
class LastEvent:
    """What a client says it has seen: the id of the last event, `<session>.<offset>`."""

    session: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> LastEvent | None:
        """Read an event id of ours; None for anything else."""
        session, _, offset = text.partition(".")
        if not is_session_id(session) or not offset.isascii() or not offset.isdigit() or len(offset) > 15:
            return None
        return cls(session, int(offset))


class SseTransport:
    """Answers the transport's three addresses for every tenant."""

    def __init__(
        self,
        redis: Redis,
        pod: str,
        authenticator: Authenticator,
        connections: Connections,
        sessions: Sessions,
        metrics: Metrics,
    ) -> None:
        self._redis = redis
        self._settings = redis.settings
        self._pod = pod
        self._authenticator = authenticator
        self._connections = connections
        self._sessions = sessions
        self._calls = Calls(redis)
        self._metrics = metrics
        self.draining = False
        """Whether this pod is stopping and takes no new streams."""

    # The stream: GET of /t/{tenant}/sse

    async def connect(self, request: Request) -> None:
        """Open a stream and hold it until the client leaves or the stream is ended."""
        if self.draining:  # before a ticket is spent
            raise Draining(retry_after=1)
        identity = await self._identify_stream(request)
        if not _accepts_events(request.header(b"accept")):
            raise NotAcceptable
        seen = request.header(b"last-event-id") or request.query("last_event_id")
        stream = await (self._resume(request, identity, seen) if seen else self._open(request, identity))
        try:
            # What was said to all streams while this one was being opened was not said to it.
            self._check_open(identity)
            request.begin_stream()
            await self._hold(request, stream)
        finally:
            self._connections.remove(stream)
            request.protocol.streaming = False

    def _check_open(self, identity: Identity) -> None:
        if self.draining:
            raise Draining(retry_after=1)
        self._authenticator.check_valid(identity.principal)

    async def _identify_stream(self, request: Request) -> Identity:
        ticket = request.query("ticket")
        if not ticket or request.header(b"authorization"):
            return await self._authenticator.identify(request)
        tenant = await self._authenticator.find_tenant(request.tenant)
        return self._authenticator.redeem(tenant, await self._sessions.take_ticket(tenant.id, ticket))

    async def _open(self, request: Request, identity: Identity) -> Stream:
        session = new_session_id()
        stream = self._stream(request, identity, session, 0)
        limit = identity.tenant.limits.sessions
        await self._sessions.open(identity.owner, session, identity.caller, limit)
        self._connections.add(stream)
        self._metrics.sessions_opened_total.inc()
        return stream

    async def _resume(self, request: Request, identity: Identity, seen: str) -> Stream:
        last = LastEvent.parse(seen)
        if last is None:
            raise SessionNotFound
        stream = self._stream(request, identity, last.session, last.offset)
        self._connections.hold_for(stream)
        try:
            stream.attach(await self._sessions.attach(identity.owner, last.session, last.offset))
            self._connections.add(stream)
        finally:
            self._connections.release(stream)
        self._metrics.sessions_resumed_total.inc()
        return stream

    def _stream(self, request: Request, identity: Identity, session: str, last: int) -> Stream:
        return Stream(identity, session, last, request.protocol, self._settings, self._metrics)

    async def _hold(self, request: Request, stream: Stream) -> None:
        self._metrics.active_connections.inc()
        try:
            await self._begin(request, stream)
            while (await request.receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            if not stream.ended:
                raise
            await self._part(request, stream)
        finally:
            self._metrics.active_connections.dec()

    async def _begin(self, request: Request, stream: Stream) -> None:
        headers = [*_STREAM_HEADERS, *request.cors]
        await request.send({"type": "http.response.start", "status": 200, "headers": headers})
        uri = f"/t/{stream.slug}/messages?session_id={stream.session}"
        stream.begin(f"id: {stream.session}.{stream.last}\nevent: endpoint\ndata: {uri}\n\n".encode())
        if stream.behind:
            self._connections.catch_up(stream)
        # A stream lives for hours, the head of its request need not.
        request.headers.clear()
        request.scope["headers"].clear()

    async def _part(self, request: Request, stream: Stream) -> None:
        if stream.ended == "slow reader":
            self._metrics.slow_readers_total.inc()
            request.abort()
            return
        stream.part(_farewell(stream.ended).encode())
        await request.send({"type": "http.response.body", "body": b"", "more_body": False})

    def drain(self) -> None:
        """Take no new streams, and send the clients of the open ones to other pods."""
        self.draining = True
        for stream in self._connections:
            stream.end("draining")

    # Tickets: POST to /t/{tenant}/tickets

    async def issue_ticket(self, request: Request) -> None:
        """Give a browser, whose EventSource cannot send headers, a way to open one stream."""
        identity = await self._authenticator.identify(request)
        ticket = await self._sessions.issue_ticket(identity.tenant.id, self._authenticator.stand_in(identity))
        document = {
            "ticket": ticket,
            "expires_in": self._settings.ticket_lifetime,
            "sse_url": f"/t/{request.tenant}/sse?ticket={ticket}",
        }
        await request.answer_json(201, document)

    # Messages: POST to /t/{tenant}/messages, with the session in the query

    async def post(self, request: Request) -> None:
        """Accept one message: 202 means that a request gets exactly one answer."""
        identity = await self._authenticator.identify(request)
        session = request.query("session_id")
        if not session:
            raise MissingSessionId
        body = await request.body(self._settings.max_body_bytes, self._settings.body_timeout)
        envelope = parse(body, self._settings.max_json_elements)
        if not is_session_id(session):
            raise SessionNotFound
        try:
            await self._accept(identity, session, envelope, body)
        except TrunklineError as error:
            await self._refuse(request, error, envelope)
            return
        self._metrics.accept_accepted.inc()
        await request.answer(202, b"Accepted", _PLAIN)

    async def _refuse(self, request: Request, error: TrunklineError, envelope: Envelope) -> None:
        self._metrics.refuse(error.reason)
        # A session that is not the caller's looks like one that never was, so its 404 carries nothing of the request.
        known = envelope.kind == "request" and not isinstance(error, SessionNotFound)
        await request.refuse(error, envelope.id if known else b"null")

    async def _accept(self, identity: Identity, session: str, envelope: Envelope, body: bytes) -> None:
        if envelope.method == "notifications/cancelled" and envelope.kind == "notification":
            await self._cancel(identity, session, envelope)
            return
        if envelope.method == TOOL_CALL and SCOPE_CALL not in identity.principal.scopes:
            raise Forbidden(f"This API key does not allow calling tools; it lacks the scope {SCOPE_CALL}.")
        call = uuid_utils.uuid7().hex
        if stations.on:
            stations.log(
                "accept", call=call, tenant=identity.tenant.slug, session=session, method=envelope.method,
                key=identity.principal.key_id,
            )  # fmt: skip
        # A client's response to a request of the server travels like a notification: it gets no answer.
        request_id = envelope.id if envelope.kind == "request" else b""
        audit = self._audit(identity, call, session, envelope)
        message = Message(call, session, request_id, body, audit)
        started = time.perf_counter()
        await self._calls.accept(identity.owner, message, identity.bounds)
        self._metrics.enqueue_seconds.observe(time.perf_counter() - started)
        if stations.on:
            stations.log("enqueue", call=call, tenant=identity.tenant.slug, session=session)

    def _audit(self, identity: Identity, call: str, session: str, envelope: Envelope) -> bytes:
        if envelope.method != TOOL_CALL or envelope.kind != "request":
            return b""
        return seed(
            call=call,
            at=int(self._redis.clock.now_ms()),
            tenant=identity.tenant.id,
            actor=identity.principal.key_id,
            session=session,
            pod=self._pod,
            request_id=envelope.id,
            target=str(envelope.params.get("name", "")),
            arguments=envelope.params.get("arguments"),
        )

    async def _cancel(self, identity: Identity, session: str, envelope: Envelope) -> None:
        """`notifications/cancelled` (specification, basic/utilities/cancellation): takes back one request."""
        request_id = envelope.params.get("requestId")
        if isinstance(request_id, bool) or not isinstance(request_id, int | str):
            raise InvalidMessage("notifications/cancelled names a request by its requestId.")
        for call in await self._calls.cancel(identity.owner, session, orjson.dumps(request_id)):
            if stations.on:
                stations.log("cancel", call=call, tenant=identity.tenant.slug, session=session)
            await announce(self._redis, CallCancelled(call, session))


def _farewell(reason: str) -> str:
    """What a stream ends with: an `end` event, unless its session goes on, elsewhere."""
    if reason == "replaced":
        return f": {reason}\n\n"
    if reason == "draining":
        return f"retry: {random.randint(*_RETRY_MS)}\n: {reason}\n\n"  # noqa: S311 - jitter
    return f"event: end\ndata: {reason}\n\n"


def _accepts_events(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, section 12.5.1) allows text/event-stream; a missing one allows all."""
    if not accept:
        return True
    allowed: dict[str, bool] = {}
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        allowed[media] = not any(parameter in {"q=0", "q=0.0", "q=0.00", "q=0.000"} for parameter in parameters)
    # The most specific range that names it decides.
    ranges = ("text/event-stream", "text/*", "*/*")
    return next((allowed[media] for media in ranges if media in allowed), False)
