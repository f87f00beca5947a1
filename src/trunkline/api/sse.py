"""The HTTP+SSE transport of MCP revision 2024-11-05: `GET /t/{tenant}/sse` and `POST /t/{tenant}/messages`.

The GET opens a session, or resumes one by `Last-Event-ID` on whichever pod the client meets; the POST may meet
any other pod. What a client posts is accepted (station 1), enqueued (2), and answered 202; its answer comes on the
stream.
"""

from __future__ import annotations

from trunkline.api.accept import Acceptor
from trunkline.api.auth import Authenticator, Identity
from trunkline.api.connections import Connections
from trunkline.api.events import DRAINING, REPLACED
from trunkline.api.http import Request
from trunkline.api.media import accepted
from trunkline.api.messages import parse
from trunkline.api.stream import Stream
from trunkline.api.streaming import Streaming
from trunkline.errors import MissingSessionId, NotAcceptable, SessionNotFound, TrunklineError
from trunkline.metrics import Metrics
from trunkline.streams.sessions import Sessions, is_session_id, new_session_id

_PLAIN = (b"content-type", b"text/plain; charset=utf-8")


class SessionStream(Stream):
    """The one stream of a session: unlike those of other transports, it has an event for its end."""

    __slots__ = ()

    def farewell(self) -> bytes:
        """An `end` event, unless the session goes on, elsewhere."""
        if self.ended in {REPLACED, DRAINING}:
            return super().farewell()
        return b"event: end\ndata: %b\n\n" % self.ended.encode()


class SseTransport:
    """Answers the transport's three addresses for every tenant."""

    def __init__(
        self,
        authenticator: Authenticator,
        sessions: Sessions,
        connections: Connections,
        streaming: Streaming,
        acceptor: Acceptor,
        metrics: Metrics,
    ) -> None:
        self._settings = streaming.settings
        self._authenticator = authenticator
        self._sessions = sessions
        self._connections = connections
        self._streaming = streaming
        self._acceptor = acceptor
        self._metrics = metrics

    # The stream: GET of /t/{tenant}/sse

    async def connect(self, request: Request) -> None:
        """Open a stream and hold it until the client leaves or the stream is ended."""
        self._streaming.check_draining()  # before a ticket is spent
        request.check_streamable()
        identity = await self._identify_stream(request)
        if not accepted(request.header(b"accept")).events:
            raise NotAcceptable
        self._streaming.check_rate(identity)
        seen = request.header(b"last-event-id") or request.query("last_event_id")
        stream = await (
            self._streaming.resume(request, identity, seen, SessionStream) if seen else self._open(request, identity)
        )
        try:
            # What was said to all streams while this one was being opened was not said to it.
            await self._streaming.check_open(identity)
            await self._streaming.hold(request, stream, _endpoint(stream))
        finally:
            self._connections.remove(stream)

    async def _identify_stream(self, request: Request) -> Identity:
        ticket = request.query("ticket")
        if not ticket or request.header(b"authorization"):
            return await self._authenticator.identify(request)
        tenant = await self._authenticator.find_tenant(request.tenant)
        return self._authenticator.redeem(tenant, await self._sessions.take_ticket(tenant.id, ticket), request)

    async def _open(self, request: Request, identity: Identity) -> Stream:
        session = new_session_id()
        stream = self._streaming.stream(request, identity, session, 0, SessionStream)
        await self._sessions.open(identity.owner, session, identity.caller, identity.most_sessions)
        self._connections.add(stream)
        self._metrics.sessions_opened_total.inc()
        return stream

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
        if request.waited:
            await self._authenticator.check_still(identity)
        envelope = parse(body, self._settings.max_json_elements)
        if not is_session_id(session):
            raise SessionNotFound
        try:
            await self._acceptor.take(request, identity, session, envelope, body)
        except TrunklineError as error:
            await self._acceptor.refuse(request, error, envelope)
            return
        await request.answer(202, b"Accepted", _PLAIN)


def _endpoint(stream: Stream) -> bytes:
    """The first event: where to post to, and the id from which the stream is resumed if nothing else comes."""
    uri = f"/t/{stream.slug}/messages?session_id={stream.session}"
    return f"id: {stream.name}.{stream.last}\nevent: endpoint\ndata: {uri}\n\n".encode()
