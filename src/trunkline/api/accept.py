"""Stations 1 and 2, accept and enqueue: what every transport does with a message of a session.

Before this, `auth` has settled who calls, and `messages` what it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Protocol

import orjson
import uuid_utils

from trunkline.api.auth import Identity
from trunkline.api.exchange import ANSWERED, Exchange
from trunkline.api.http import Request
from trunkline.api.messages import Message as Envelope
from trunkline.audit.seed import TOOL_CALL, seed
from trunkline.errors import (
    Forbidden,
    InvalidMessage,
    SessionNotFound,
    TooManyRequests,
    TrunklineError,
    Unavailable,
)
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.streams.bounds import Admission
from trunkline.streams.calls import Calls, Message, Place, UseUnknown
from trunkline.streams.client import Redis
from trunkline.streams.sessions import Sessions
from trunkline.tenants.model import SCOPE_CALL
from trunkline.tracing import Tracing

_INITIALIZED = "notifications/initialized"


def new_call_id() -> str:
    """Our own id of a message: UUIDv7 as 32 hex characters."""
    return uuid_utils.uuid7().hex


class Seeder(Protocol):
    """Tells Redis what tenants have used of their quotas; `trunkline.tenants.quotas` does."""

    async def seed(self, tenant: str, month: str, *, of_tenant: bool) -> bool:
        """Have it told; False where that cannot be done now."""


class Acceptor:
    """Accepts messages for this pod."""

    def __init__(
        self,
        redis: Redis,
        pod: str,
        sessions: Sessions,
        calls: Calls,
        metrics: Metrics,
        quotas: Seeder,
        tracing: Tracing | None = None,
    ) -> None:
        self._redis = redis
        self._pod = pod
        self._sessions = sessions
        self._calls = calls
        self._metrics = metrics
        self._quotas = quotas
        self._tracing = tracing

    async def take(self, request: Request, identity: Identity, session: str, envelope: Envelope, body: bytes) -> None:
        """Do what a message of a session wants; what it is answered, if anything, comes on the session's own stream.

        Raises:
            TrunklineError: it was refused, and nothing came of it.
        """
        if envelope.kind == "response":
            await self._calls.reply(identity.owner, session, _question(envelope.id), body, identity.bounds)
            self._metrics.accept_accepted.inc()
        elif envelope.method == "notifications/cancelled" and envelope.kind == "notification":
            await self._cancel(identity, session, envelope)
            self._metrics.accept_accepted.inc()
        else:
            await self.enqueue(request, identity, session, envelope, body, new_call_id())

    async def refuse(self, request: Request, error: TrunklineError, envelope: Envelope) -> None:
        """Answer with the reason for which a message was refused."""
        self._metrics.refuse(error.reason)
        # A session that is not the caller's looks like one that never was, so its 404 carries nothing of the request.
        known = envelope.kind == "request" and not isinstance(error, SessionNotFound)
        await request.refuse(error, envelope.id if known else b"null")

    async def enqueue(
        self,
        request: Request,
        identity: Identity,
        session: str,
        envelope: Envelope,
        body: bytes,
        call: str,
        place: Place | None = None,
    ) -> None:
        """Accept a message: once this returns, a request gets exactly one answer, which tells what is left of limits.

        Raises:
            TrunklineError: it was refused, and nothing came of it.
        """
        if envelope.method == TOOL_CALL and SCOPE_CALL not in identity.principal.scopes:
            raise Forbidden(f"This API key does not allow calling tools; it lacks the scope {SCOPE_CALL}.")
        if stations.on:
            stations.log(
                "accept", call=call, tenant=identity.tenant.slug, session=session, method=envelope.method,
                key=identity.principal.key_id,
            )  # fmt: skip
        request_id = envelope.id if envelope.kind == "request" else b""
        audit = self._audit(identity, envelope, len(body))
        formal = place is None and envelope.method == _INITIALIZED
        trace = None
        if self._tracing is not None and request_id:
            trace = self._tracing.accepting(
                request.header, envelope.method, envelope.params, identity.tenant.slug, request.began
            )
            body = body if trace is None else trace.carry(body)
        message = Message(call, session, request_id, body, audit, place, formal)
        started = time.perf_counter()
        self._metrics.accept_seconds.observe(started - request.began)
        try:
            try:
                admission = await self._calls.accept(identity.owner, message, identity.bounds)
            except UseUnknown as unknown:
                admission = await self._accept_once_known(identity, message, unknown)
        except TrunklineError as error:
            if trace is not None:
                trace.refused(error.reason)
            if isinstance(error, TooManyRequests):
                request.told = identity.told.refused(error)
            raise
        if trace is not None:
            trace.accepted(call)
        request.told = identity.told.accepted(admission, self._redis.clock.now)
        self._metrics.enqueue_seconds.observe(time.perf_counter() - started)
        self._metrics.accept_accepted.inc()
        if stations.on:
            stations.log("enqueue", call=call, tenant=identity.tenant.slug, session=session)

    async def _accept_once_known(self, identity: Identity, message: Message, unknown: UseUnknown) -> Admission:
        """Accept a message of a tenant with a quota, of which Redis does not know what it has used; tell it first.

        Where it cannot be told, the tenant's calls go on.
        """
        known = await self._quotas.seed(identity.tenant.id, unknown.month, of_tenant=unknown.of_tenant)
        bounds = identity.bounds if known else identity.bounds.regardless()
        try:
            return await self._calls.accept(identity.owner, message, bounds)
        except UseUnknown:  # a new month has begun, or Redis lost it again
            return await self._calls.accept(identity.owner, message, bounds.regardless())

    def _audit(self, identity: Identity, envelope: Envelope, size: int) -> bytes:
        if envelope.method != TOOL_CALL or envelope.kind != "request":
            return b""
        return seed(
            actor=identity.principal.key_id,
            pod=self._pod,
            target=str(envelope.params.get("name", "")),
            arguments=envelope.params.get("arguments"),
            size=size,
        )

    async def _cancel(self, identity: Identity, session: str, envelope: Envelope) -> None:
        """`notifications/cancelled` (specification, basic/utilities/cancellation): takes back one request."""
        request_id = envelope.params.get("requestId")
        if isinstance(request_id, bool) or not isinstance(request_id, int | str):
            raise InvalidMessage("notifications/cancelled names a request by its requestId.")
        cancelled = await self._calls.cancel(identity.owner, session, orjson.dumps(request_id), identity.bounds)
        self._log_cancelled(identity, session, cancelled)

    async def take_back(self, identity: Identity, session: str, request_id: bytes) -> None:
        """Cancel a request that nobody waits for any more; should that not be possible now, it runs to its end."""
        with contextlib.suppress(SessionNotFound, Unavailable):  # or it was answered meanwhile
            self._log_cancelled(identity, session, await self._calls.cancel(identity.owner, session, request_id))

    async def close(self, identity: Identity, session: str) -> None:
        """End a session on every pod, and stop what runs for it.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
        """
        self._log_cancelled(identity, session, await self._sessions.close(identity.owner, session))

    async def abandon(self, identity: Identity, exchange: Exchange) -> None:
        """End a session that this was to open, and nobody knows of; should that not be possible now, it expires."""
        with contextlib.suppress(SessionNotFound, Unavailable):
            await self.close(identity, exchange.session)
        self._calls.forget(identity.tenant.id, exchange.name)

    def forget(self, exchange: Exchange) -> None:
        """Keep nothing of what was answered as a document, which nobody can resume, and no whole stream for long."""
        if exchange.ended == ANSWERED or (exchange.whole and not exchange.streams):
            self._calls.forget(exchange.owner.tenant, exchange.name, resumable=exchange.streams)

    def _log_cancelled(self, identity: Identity, session: str, calls: Iterable[str]) -> None:
        if stations.on:
            for call in calls:
                stations.log("cancel", call=call, tenant=identity.tenant.slug, session=session)


def _question(response_id: bytes) -> str:
    """The request that a response answers; ours have texts for ids that nothing in JSON escapes."""
    return response_id[1:-1].decode() if response_id.startswith(b'"') else ""
