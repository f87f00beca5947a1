"""What travels between API pods and workers: frozen, versioned, to and from the fields of a stream entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, cast

import orjson

from trunkline.tracing import parted

VERSION = "1"


Transport = Literal["sse", "http", "json", "modern"]
"""How a call came, and what may be sent to its client meanwhile.

`sse`: HTTP+SSE (2024-11-05), everything. `http`: a POST of streamable HTTP with sessions (2025-03-26 to 2025-11-25),
everything. `json`: the same from a client that takes its answer as JSON alone, with no way for anything else.
`modern`: a stateless POST (2026-07-28), notifications but no requests.
"""


class UnknownVersion(ValueError):
    """An entry was written by a version of Trunkline that this one does not understand."""


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a call runs, as the worker needs it. The key itself never travels."""

    tenant_id: str
    slug: str
    key_id: str
    """Empty on a public tenant."""
    scopes: tuple[str, ...]
    tools: tuple[str, ...]
    """Glob patterns of the tools that the key allows."""
    expires_at: int | None
    """Epoch seconds; None where nothing expires."""

    def encode(self) -> bytes:
        """The form in which it travels with each call."""
        return orjson.dumps(self)

    @classmethod
    def decode(cls, encoded: bytes) -> Caller:
        """Read what `encode` wrote."""
        fields = orjson.loads(encoded)
        return cls(**{**fields, "scopes": tuple(fields["scopes"]), "tools": tuple(fields["tools"])})


decode_caller = lru_cache(20_000)(Caller.decode)
"""`Caller.decode`, remembered: a key's calls all bring the same bytes."""


class Call(NamedTuple):
    """One accepted message of a client, as a worker claims it from a lane."""

    id: str
    """Our own id of the message, UUIDv7 as 32 hex characters; answers are routed by it, never by the JSON-RPC id."""
    tenant: str
    session: str
    """That it belongs to; a stateless request has one of its own, with the id of the call."""
    body: bytes
    """The JSON-RPC message as the client sent it."""
    caller: bytes
    """The principal, encoded by the API pod once per key; see `Caller`."""
    context: bytes
    """What the session negotiated, as the worker that ran `initialize` encoded it; empty before.

    Of a stateless request, what its API pod knows of it besides the body.
    """
    enqueued_ms: int
    """When it was appended, by Redis' clock, epoch milliseconds."""
    deadline_ms: int
    """When it must be answered, by Redis' clock, epoch milliseconds; 0 for a notification."""
    lane: int
    entry: bytes
    """The id of the lane entry, for the acknowledgement; it names the attempt, too: each has its own."""
    attempt: int = 1
    """Which attempt this is: those before it were lost with their workers."""
    transport: Transport = "sse"
    trace: str = ""
    """Its place in a trace, `traceparent` and `tracestate`; empty where it is not traced."""

    @property
    def wants_answer(self) -> bool:
        """Whether this is a request; a notification gets no answer."""
        return self.deadline_ms > 0

    @classmethod
    def from_entry(cls, lane: int, entry: bytes, fields: Sequence[bytes]) -> Call:
        """Read the fields of a lane entry, names and values in turn.

        First `h`, what is short, a line each, `b` the body, `a` the caller, `x` the context. Then, where it is not
        HTTP+SSE, `t`, the transport; of a call that is run again, `n`, the number of the attempt.

        Raises:
            UnknownVersion: another version wrote it.
        """
        version, call, tenant, session, enqueued_ms, deadline_ms = fields[1].decode().split("\n", 5)
        if version != VERSION:
            raise UnknownVersion(f"lane entry {entry.decode()} has version {version}")
        _, _, _, body, _, caller, _, context, *others = fields
        body, trace = parted(body)
        attempt, transport = 1, "sse"
        if others:
            more = dict(zip(others[::2], others[1::2], strict=True))
            attempt, transport = int(more.get(b"n", b"1")), more.get(b"t", b"sse").decode()
        way = cast("Transport", transport)
        times = int(enqueued_ms), int(deadline_ms)
        return cls(call, tenant, session, body, caller, context, *times, lane, entry, attempt, way, trace)


def accepted_at(call: bytes) -> float:
    """When the API pod that accepted a call made its id, in epoch seconds (UUIDv7: RFC 9562, section 5.7)."""
    return int(call[:12], 16) / 1000


class Delivery(NamedTuple):
    """One message on its way to a client's stream, as an API pod receives it."""

    stream: str
    """The name of the stream it is meant for; see `streams.sessions.stream_name`."""
    generation: int
    """Which connection of that stream: each one that takes it over has the next number."""
    offset: int
    """Its place in the outbox, contiguous from 1; 0 for a signal, whose name is then the tag."""
    tag: bytes
    """The id of the call that this answers; `<call>.<number>` for a message while the call runs."""
    body: bytes

    @classmethod
    def from_payload(cls, payload: bytes) -> tuple[int, list[Delivery]]:
        """Read what was published to a pod's channel: stream, generation, offset, tag and body of each, in lines.

        A body is JSON as it is sent in an SSE event, which has no line break either.

        Returns:
            When it was published, in epoch ms, which is the first line (0 for a signal), and the messages.
        """
        lines = payload.split(b"\n")
        return int(lines[0]), [
            cls(stream.decode(), int(generation), int(offset), tag, body)
            for stream, generation, offset, tag, body in zip(
                lines[1::5], lines[2::5], lines[3::5], lines[4::5], lines[5::5], strict=True
            )
        ]


REPLACED = b"replaced"
"""Signal: another connection has taken the stream over."""
POLL = b"poll"
"""Signal: the stream is to end, and its client to come back for what it will have.

A third one, `closed`, says that the session has ended.
"""

TELLS_OF_ACCEPTED = ord("\n")
"""The first byte of a payload that is `Accepted` requests: any other begins with a time."""


class Accepted(NamedTuple):
    """A request that was accepted, as the API pod that holds its session's stream is told."""

    session: str
    call: bytes
    request_id: bytes
    """The JSON-RPC id as JSON, which has no line break in it."""

    @classmethod
    def from_payload(cls, payload: bytes) -> list[Accepted]:
        """Read what was published to a pod's channel: after a line break session, call and id, a line each."""
        lines = payload.split(b"\n")
        return [
            cls(session.decode(), call, request_id)
            for session, call, request_id in zip(lines[1::3], lines[2::3], lines[3::3], strict=True)
        ]
