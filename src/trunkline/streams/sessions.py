"""Who may speak: sessions, their streams, and the one-time tickets that open a stream from a browser.

A session belongs to the principal that opened it. To anyone else it does not exist: every function answers for a
foreign session exactly as for one that never was.

What a pod is told of a stream here it hands to clients; where replicas are to have what was done, they have it first.

A session has a stream of its own, whose name is the session's id, and on streamable HTTP one for each POST that waits
for answers, named `<session>.<call>` after its first request. Each message belongs to one stream.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from trunkline.errors import SessionNotFound, TooManySessions
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.keys import Keys

SESSION_ID_LENGTH = 32

SessionTransport = Literal["sse", "http", "lone"]
"""HTTP+SSE; streamable HTTP; a stateless request, whose record is a session that ends with it."""


def new_session_id() -> str:
    """A session id: 128 bits from the system's generator, hexadecimal."""
    return secrets.token_hex(SESSION_ID_LENGTH // 2)


def is_session_id(text: str) -> bool:
    """Whether `text` has the form of a session id; anything else never reaches Redis."""
    return len(text) == SESSION_ID_LENGTH and text.isascii() and text.isalnum()


def stream_name(session: str, call: str = "") -> str:
    """The name of a session's own stream, or of that of the POST which brought `call`."""
    return f"{session}.{call}" if call else session


def session_of(name: str) -> str:
    """The session that a stream belongs to."""
    return name.partition(".")[0]


def is_stream_name(text: str) -> bool:
    """Whether `text` has the form of a stream's name."""
    session, dot, call = text.partition(".")
    return is_session_id(session) and (not dot or is_session_id(call))


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom a session belongs."""

    tenant: str
    principal: str
    """The key id, or what stands for it on a public tenant."""
    transport: SessionTransport = "sse"

    @property
    def mark(self) -> str:
        """What the session's record says of its owner; a session of one transport does not exist on another."""
        return f"{self.transport} {self.principal}"


class Sent(NamedTuple):
    """A message of the outbox."""

    offset: int
    body: bytes
    tag: bytes
    """The id of the call that this answers; `<call>.<number>` for a message while the call runs."""


class Waiting(NamedTuple):
    """A request that was accepted and not answered yet."""

    call: bytes
    request_id: bytes
    """The JSON-RPC id as JSON."""
    left: float
    """Seconds until its deadline, 0 when it has passed."""


class Touched(NamedTuple):
    """How far a stream has come whose session's life was renewed."""

    newest: int
    """The newest offset of its outbox."""
    pending: Sequence[Waiting]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A stream that was taken over."""

    generation: int
    newest: int
    """The newest offset of its outbox."""
    missed: Sequence[Sent]
    """The first page of what was sent after `last`; see `Sessions.missed`."""
    pending: Sequence[Waiting] = ()
    last: int = 0
    """The offset after which it goes on."""


class Sessions:
    """The sessions of all tenants, as one pod sees them."""

    def __init__(self, redis: Redis, pod: str) -> None:
        self._redis = redis
        self._pod = pod
        settings = redis.settings
        self._lifetime_ms = settings.session_ttl * 1000
        self._interval_us, self._burst_us = session_rate(settings)
        # Half of what is kept for a slow reader: a page, and as much that came meanwhile, make no reader slow.
        self._page = (settings.stream_buffer_bytes // 2, settings.stream_buffer_messages // 2)

    async def open(self, owner: Owner, session: str, caller: bytes, limit: int) -> None:
        """Open a session whose own stream this pod holds, generation 1; `caller` goes to the worker with each call.

        Raises:
            TooManySessions: the tenant has `limit` sessions already, or opens them faster than SESSION_RATE allows.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        refused = await self._redis.settled(
            "open",
            [keys.stream(owner.tenant, session)[0], tenant.sessions, tenant.usage],
            [session, owner.mark, self._pod, self._lifetime_ms, limit, caller, self._interval_us, self._burst_us],
        )
        if refused:
            raise too_many_sessions(refused[0], refused[1])

    async def attach(self, owner: Owner, name: str, last_offset: int | None) -> Attachment:
        """Move a stream to this pod, after the message `last_offset`.

        None goes on after what was sent before, or from the beginning where nobody has held the stream yet.

        Raises:
            SessionNotFound: unknown, ended or another principal's session, no such stream of it, or what the client
                missed is gone.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        session, _, call = name.partition(".")
        found = await self._redis.confirmed(
            "attach",
            [
                keys.stream(owner.tenant, session)[0], *keys.stream(owner.tenant, name),
                tenant.sessions, tenant.deadlines,
            ],
            [
                session, owner.mark, call, name, self._pod, "" if last_offset is None else last_offset, tenant.pods,
                self._lifetime_ms, f"{owner.tenant}:{session}:", *self._page,
            ],
        )  # fmt: skip
        if not found:
            raise SessionNotFound
        generation, last, newest, missed, pending = found
        return Attachment(generation, newest, read_entries(missed), _read_pending(pending), last)

    async def touch(self, tenant: str, name: str, generation: int) -> Touched | None:
        """Keep a session alive of which a stream is open.

        Returns:
            How far the stream has come, or None when another connection has taken it over.

        Raises:
            SessionNotFound: it has ended, or Redis has lost it.
        """
        keys, session = self._redis.keys, session_of(name)
        tenant_keys = keys.tenant(tenant)
        found = await self._redis.confirmed(
            "touch",
            [
                keys.stream(tenant, session)[0], keys.stream(tenant, name)[0],
                tenant_keys.sessions, tenant_keys.deadlines,
            ],
            [session, name[len(session) + 1 :], generation, self._lifetime_ms, f"{tenant}:{session}:"],
        )  # fmt: skip
        if found == -1:
            raise SessionNotFound
        return None if found == -2 else Touched(found[0], _read_pending(found[1]))

    async def close(self, owner: Owner, session: str) -> list[str]:
        """End a session on every pod.

        Returns:
            The ids of the calls that nobody waits for any more.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        abandoned = await self._redis.script(
            "close",
            [
                *keys.stream(owner.tenant, session),
                tenant.deadlines, tenant.calls, tenant.sessions,
            ],
            [session, owner.mark, f"{owner.tenant}:{session}:", tenant.pods, tenant.lane, tenant.base, keys.control],
        )  # fmt: skip
        if abandoned == 0:
            raise SessionNotFound
        return [call.decode() for call in abandoned]

    async def missed(self, tenant: str, name: str, after: int) -> list[Sent]:
        """The next page of what a stream's outbox still holds after the offset `after`, in order.

        It has at least one message if there is any, else no more than half of what is kept for a slow reader.
        """
        outbox = self._redis.keys.stream(tenant, name)[1]
        return read_entries(await self._redis.confirmed("missed", [outbox], [after, *self._page]))

    async def issue_ticket(self, tenant: str, stands_for: bytes) -> str:
        """A ticket that opens one stream of this tenant within TICKET_LIFETIME; only its hash is kept."""
        ticket = secrets.token_urlsafe(32)
        lifetime = self._redis.settings.ticket_lifetime
        await self._redis.command(
            "SET", _ticket_key(self._redis.keys, tenant, ticket), b"\n" + stands_for, "EX", lifetime
        )
        return ticket

    async def take_ticket(self, tenant: str, ticket: str) -> bytes | None:
        """What a ticket stands for, once; None when it is unknown, used, expired or another tenant's."""
        taken: bytes | None = await self._redis.script(
            "ticket", [_ticket_key(self._redis.keys, tenant, ticket)], [secrets.token_hex(8)]
        )
        return taken


def session_rate(settings: Settings) -> tuple[float, float]:
    """Microseconds between the sessions that a tenant opens at the limit, and by which they may come early."""
    interval = 1_000_000 / settings.session_rate
    return interval, interval * settings.session_burst


def too_many_sessions(reason: bytes, retry_ms: int) -> TooManySessions:
    """What `begin.lua` refused a session for."""
    sentence = None if reason == b"sessions" else "The tenant opens sessions faster than its limit allows."
    return TooManySessions(sentence, retry_after=retry_ms / 1000)


def read_entries(entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Sent]:
    """The messages in the entries of an outbox."""
    return [Sent(int(entry.partition(b"-")[0]), fields[1], fields[3]) for entry, fields in entries]


def _read_pending(flat: Sequence[Any]) -> list[Waiting]:
    """What `pending.lua` found; a request without a deadline counts as due."""
    return [
        Waiting(call, request_id, max(left_ms, 0) / 1000)
        for call, request_id, left_ms in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    ]


def _ticket_key(keys: Keys, tenant: str, ticket: str) -> str:
    return keys.ticket(tenant, hashlib.sha256(ticket.encode()).hexdigest())
