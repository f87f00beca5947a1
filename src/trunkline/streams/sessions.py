"""Who may speak: sessions, their streams, and the one-time tickets that open a stream from a browser.

A session belongs to the principal that opened it. To anyone else it does not exist: every function answers for a
foreign session exactly as for one that never was.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trunkline.errors import SessionNotFound, TooManySessions
from trunkline.streams.client import Redis
from trunkline.streams.keys import Keys

SESSION_ID_LENGTH = 32


def new_session_id() -> str:
    """A session id: 128 bits from the system's generator, hexadecimal."""
    return secrets.token_hex(SESSION_ID_LENGTH // 2)


def is_session_id(text: str) -> bool:
    """Whether `text` has the form of a session id; anything else never reaches Redis."""
    return len(text) == SESSION_ID_LENGTH and text.isascii() and text.isalnum()


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom a session belongs."""

    tenant: str
    principal: str
    """The key id, or what stands for it on a public tenant."""


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
    """How far a session has come whose life was renewed."""

    newest: int
    """The newest offset of its outbox."""
    pending: Sequence[Waiting]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A stream that took over a session."""

    generation: int
    newest: int
    """The newest offset of its outbox."""
    missed: Sequence[Sent]
    """The first page of what was sent after the last message that the client has seen; see `Sessions.missed`."""
    pending: Sequence[Waiting] = ()


class Sessions:
    """The sessions of all tenants, as one pod sees them."""

    def __init__(self, redis: Redis, pod: str) -> None:
        self._redis = redis
        self._pod = pod
        settings = redis.settings
        self._lifetime_ms = settings.session_ttl * 1000
        self._interval_us = 1_000_000 / settings.session_rate
        self._burst_us = self._interval_us * settings.session_burst
        # Half of what is kept for a slow reader: a page, and as much that came meanwhile, make no reader slow.
        self._page = (settings.stream_buffer_bytes // 2, settings.stream_buffer_messages // 2)

    async def open(self, owner: Owner, session: str, transport: str, caller: bytes, limit: int) -> None:
        """Open a session whose stream this pod holds, generation 1; `caller` goes to the worker with each call.

        Raises:
            TooManySessions: the tenant has `limit` sessions already, or opens them faster than SESSION_RATE allows.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        refused = await self._redis.script(
            "open",
            [keys.session(owner.tenant, session)[0], tenant.sessions, tenant.usage],
            [
                session, owner.principal, transport, self._pod, self._lifetime_ms, limit, caller,
                self._interval_us, self._burst_us,
            ],
        )  # fmt: skip
        if refused:
            reason, retry_ms = refused
            sentence = "The tenant opens sessions faster than its limit allows." if reason == b"rate" else None
            raise TooManySessions(sentence, retry_after=retry_ms / 1000)

    async def attach(self, owner: Owner, session: str, last_offset: int) -> Attachment:
        """Move the session's stream to this pod, after the message `last_offset`.

        Raises:
            SessionNotFound: unknown, ended or another principal's session, or what the client missed is gone.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        found = await self._redis.script(
            "attach",
            [*keys.session(owner.tenant, session), tenant.sessions, tenant.deadlines],
            [
                session, owner.principal, self._pod, last_offset, tenant.pods, self._lifetime_ms,
                f"{owner.tenant}:{session}:", *self._page,
            ],
        )  # fmt: skip
        if not found:
            raise SessionNotFound
        generation, newest, missed, pending = found
        return Attachment(generation, newest, read_entries(missed), _read_pending(pending))

    async def touch(self, tenant: str, session: str, generation: int) -> Touched | None:
        """Keep a session alive whose stream is open.

        Returns:
            How far it has come, or None when another stream has replaced this one.

        Raises:
            SessionNotFound: it has ended, or Redis has lost it.
        """
        names = self._redis.keys.tenant(tenant)
        found = await self._redis.script(
            "touch",
            [self._redis.keys.session(tenant, session)[0], names.sessions, names.deadlines],
            [session, generation, self._lifetime_ms, f"{tenant}:{session}:"],
        )
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
                *keys.session(owner.tenant, session),
                tenant.deadlines, tenant.calls, tenant.audit, tenant.sessions,
            ],
            [session, owner.principal, f"{owner.tenant}:{session}:", tenant.pods, tenant.lane, tenant.base],
        )  # fmt: skip
        if abandoned == 0:
            raise SessionNotFound
        return [call.decode() for call in abandoned]

    async def missed(self, tenant: str, session: str, after: int) -> list[Sent]:
        """The next page of what the outbox still holds after the offset `after`, in order.

        It has at least one message if there is any, else no more than half of what is kept for a slow reader.
        """
        outbox = self._redis.keys.session(tenant, session)[1]
        return read_entries(await self._redis.script("missed", [outbox], [after, *self._page]))

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
