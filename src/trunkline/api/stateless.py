"""Streamable HTTP of revision 2026-07-28: each POST to `/t/{tenant}/mcp` is all that the server knows of its client.

No session, no other method, no message but the request's own. A client that closes the connection takes its request
back; a pod that stops or dies does not.
"""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from trunkline.api.accept import Acceptor, new_call_id
from trunkline.api.auth import Authenticator, Identity
from trunkline.api.exchange import Form
from trunkline.api.http import Request
from trunkline.api.inbound import check_request, check_version, context_of, status_of
from trunkline.api.listen import METHOD as LISTEN
from trunkline.api.listen import Listeners
from trunkline.api.media import Accepts, accepted
from trunkline.api.messages import Message, parse
from trunkline.api.streaming import Streaming
from trunkline.errors import (
    InvalidMessage,
    MethodNotAllowed,
    NotAcceptable,
    TrunklineError,
)
from trunkline.streams.calls import Calls, Opening, Place


class StatelessTransport:
    """Answers stateless requests for every tenant."""

    def __init__(
        self,
        pod: str,
        authenticator: Authenticator,
        streaming: Streaming,
        acceptor: Acceptor,
        calls: Calls,
        listeners: Listeners,
    ) -> None:
        self._pod = pod
        self._settings = streaming.settings
        self._authenticator = authenticator
        self._streaming = streaming
        self._acceptor = acceptor
        self._calls = calls
        self._listeners = listeners

    async def refuse(self, request: Request) -> NoReturn:
        """GET and DELETE: there is no stream to open and no session to end; of an unknown version it is that."""
        await self._authenticator.identify(request, "lone")
        check_version(request)
        raise MethodNotAllowed("POST")

    async def post(self, request: Request) -> None:
        """Answer one request; acknowledge a notification, of which none means anything here."""
        identity = await self._authenticator.identify(request, "lone")
        takes = accepted(request.header(b"accept"))
        if not takes.json:
            raise NotAcceptable("This address answers application/json and text/event-stream.")
        body = await request.body(self._settings.max_body_bytes, self._settings.body_timeout)
        if request.waited:
            await self._authenticator.check_still(identity)
        message = parse(body, self._settings.max_json_elements)
        try:
            match message.kind:
                case "request":
                    await self._answer(request, identity, takes, message, body)
                case "notification":
                    check_version(request)
                    await request.answer(202, b"")
                case "response":
                    raise InvalidMessage("There are no requests from server to client in this protocol version.")
        except TrunklineError as error:
            await self._acceptor.refuse(request, error, message)

    async def _answer(
        self, request: Request, identity: Identity, takes: Accepts, message: Message, body: bytes
    ) -> None:
        if message.method == LISTEN and not takes.events:
            raise NotAcceptable
        check_request(request, message)
        if message.method == LISTEN:
            await self._listeners.serve(request, identity, message)
            return
        call = new_call_id()
        exchange = self._streaming.exchange(request, identity, call, Form(events=takes.events, numbered=False))
        exchange.wait_for(call, message.id)
        place = Place(call, self._pod, "modern", Opening(identity.caller, 0, context_of(request)))
        await self._streaming.answer(
            request, exchange, partial(self._acceptor.enqueue, request, identity, call, message, body, call, place)
        )
        if not exchange.whole:
            # Whether the client has gone (specification, basic/transports: closing the stream cancels), does not read
            # or may not any more: no other connection will have the answer.
            await self._acceptor.take_back(identity, call, message.id)
        self._calls.forget(identity.tenant.id, call)
        failure = exchange.failure(message.id) if exchange.whole and not exchange.streams else None
        await self._streaming.conclude(request, exchange, status_of(failure))
