"""The hash chain of a tenant's audit log: the bytes that are hashed, and what follows from what.

Pure, and in the writer's way for every event: nothing here waits, and an event costs a few microseconds. The form of
the bytes is public (docs/audit.md): whoever has an export and the signer's public key can compute it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple

import orjson

_LABEL: Final = b"trunkline audit 1\n"
_VERSION: Final = 1
CHECKPOINT_EVERY: Final = 1_000
"""Each entry whose number this divides has a signed checkpoint."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

CheckpointKind = Literal["regular", "retention", "export"]
"""Why it was signed: the chain had come so far; what is before was dropped; somebody took a copy (never stored)."""


class Event(NamedTuple):
    """What happened, in the order in which it is hashed; times and durations in whole microseconds."""

    tenant: str
    """Its id, 32 hex characters; `PLATFORM` for what is no tenant's."""
    id: str
    """UUIDv7 in hex; of a tool call the id of the call."""
    occurred_us: int
    """When it happened (a call: was accepted), since 1970."""
    actor_kind: str
    """`operator`, `user`, `key`, `public` or `system`."""
    actor: str | None
    """Id of the user, key or operator."""
    address: str | None
    """From where, for changes by the control plane."""
    action: str
    target: str | None
    session_id: str | None
    outcome: str
    duration_us: int | None
    compute_us: int
    bytes_in: int
    bytes_out: int
    arguments_hash: str | None
    """SHA-256 in hex."""
    api_pod: str | None
    worker_pod: str | None
    request_id: str | None
    """The client's own JSON-RPC id, as JSON."""
    detail: Mapping[str, Any]
    """Text, whole numbers, booleans, null, lists and objects; no fractions, which JSON stores change."""


class Entry(NamedTuple):
    """An event with its place in the chain of its tenant."""

    seq: int
    """1 for the first; no number is missing."""
    recorded_us: int
    """When it was chained, microseconds since 1970; never less than that of the entry before."""
    event: Event
    hash: bytes
    """SHA-256 over the hash before it and this entry's canonical bytes."""


class Head(NamedTuple):
    """How far a tenant's chain has come; an authentication code over it is kept beside it."""

    tenant: str
    seq: int
    hash: bytes
    recorded_us: int
    base_seq: int = 0
    """The last entry that retention dropped."""
    broken_at: int | None = None
    """Where the chain was first extended although the head there could not be verified; it stays for good."""


class Checkpoint(NamedTuple):
    """A signed statement: the chain of this tenant had this hash at this number."""

    tenant: str
    seq: int
    hash: bytes
    recorded_us: int
    kind: CheckpointKind
    kid: str = ""
    signature: bytes = b""


def genesis(tenant: str) -> bytes:
    """The hash before the first entry of a tenant, by its id."""
    return sha256(_LABEL + tenant.encode()).digest()


def no_head(tenant: str) -> Head:
    """The head of a chain without entries."""
    return Head(tenant, 0, genesis(tenant), 0)


def canonical(seq: int, recorded_us: int, event: Event) -> bytes:
    """The entry as a JSON array in one form: keys of objects sorted by code point, no white space, UTF-8.

    Raises:
        TypeError: the event holds what is no JSON, a whole number beyond 64 bits or half of a character pair
            (`orjson.JSONEncodeError`).
    """
    return orjson.dumps((_VERSION, seq, recorded_us, *event), option=orjson.OPT_SORT_KEYS)


def link(previous: bytes, entry: bytes) -> bytes:
    """The hash of an entry, from the hash before it and its canonical bytes."""
    return sha256(_LABEL + previous + entry).digest()


def check_detail(detail: Mapping[str, Any]) -> None:
    """See to it that a store of JSON gives back what it got.

    Raises:
        ValueError: there is a fraction, a key that is no text, a NUL, a number beyond 64 bits, or what is no JSON.
    """
    for part in _parts(detail):
        match part:
            case None | bool():
                pass
            case int():
                if not -(2**63) <= part < 2**63:
                    raise ValueError("a detail of an audit event holds whole numbers of at most 64 bits")
            case str():
                if "\0" in part or not _is_text(part):
                    raise ValueError("a detail of an audit event holds text without NUL and half characters")
            case float():
                raise ValueError("a detail of an audit event holds no fractions: stores of JSON change them")
            case _:
                raise ValueError(f"a detail of an audit event holds no {type(part).__name__}")


def _parts(value: Any) -> list[Any]:
    """All that is in a value of JSON, keys of objects included, but neither lists nor objects."""
    if isinstance(value, Mapping):
        return [part for key, each in value.items() for part in (_key(key), *_parts(each))]
    if isinstance(value, list | tuple):
        return [part for each in value for part in _parts(each)]
    return [value]


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError("an object in a detail of an audit event has keys of text")
    return key


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)


def microseconds(time: datetime) -> int:
    """A time as whole microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(microseconds: int) -> datetime:
    """The time so many microseconds after 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)
