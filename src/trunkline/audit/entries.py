"""Entries of the log as rows of Postgres, as JSON and as CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from trunkline.audit.chain import Checkpoint, Entry, Event, microseconds, time_of

COLUMNS: Final = (
    "seq, recorded_at, hash, tenant_id, id, occurred_at, actor_kind, actor, address, action, target, session_id, "
    "outcome, duration_ms, compute_us, bytes_in, bytes_out, arguments_hash, api_pod, worker_pod, request_id, detail"
)
"""What `from_row` wants, in its order."""

FIELDS: Final = (
    "tenant", "seq", "recorded_at", "id", "occurred_at", "actor_kind", "actor", "address", "action", "target",
    "session_id", "outcome", "duration_ms", "compute_us", "bytes_in", "bytes_out", "arguments_hash", "api_pod",
    "worker_pod", "request_id", "detail", "hash",
)  # fmt: skip
"""Of an entry in JSON and CSV."""

_CHECKPOINT_FIELDS: Final = ("tenant", "seq", "hash", "recorded_at", "kind", "kid", "signature")
_END_FIELDS: Final = ("tenant", "checkpoint", "previous", "signed")

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection)."""


def from_row(row: Sequence[Any]) -> Entry:
    """The entry that a row with `COLUMNS` holds."""
    (
        seq, recorded_at, digest, tenant, identity, occurred_at, actor_kind, actor, address, action, target,
        session_id, outcome, duration_ms, compute_us, bytes_in, bytes_out, arguments_hash, api_pod, worker_pod,
        request_id, detail,
    ) = row  # fmt: skip
    event = Event(
        tenant.hex, identity.hex, microseconds(occurred_at), actor_kind, actor, address, action, target, session_id,
        outcome, None if duration_ms is None else round(duration_ms * 1000), compute_us, bytes_in, bytes_out,
        arguments_hash, api_pod, worker_pod, request_id, {} if detail == "{}" else _object(detail),
    )  # fmt: skip
    return Entry(seq, microseconds(recorded_at), event, digest)


def to_json(entry: Entry) -> dict[str, Any]:
    """The entry with the names of `FIELDS`: times as RFC 3339 in UTC, the hash in hex."""
    event = entry.event
    duration = event.duration_us
    values = (
        event.tenant, entry.seq, _time(entry.recorded_us), event.id, _time(event.occurred_us), event.actor_kind,
        event.actor, event.address, event.action, event.target, event.session_id, event.outcome,
        None if duration is None else duration / 1000, event.compute_us, event.bytes_in, event.bytes_out,
        event.arguments_hash, event.api_pod, event.worker_pod, event.request_id, event.detail, entry.hash.hex(),
    )  # fmt: skip
    return dict(zip(FIELDS, values, strict=True))


def from_json(said: Mapping[str, Any]) -> Entry:
    """What `to_json` gave.

    Raises:
        ValueError, TypeError, KeyError: it is no such entry, or says what nobody has hashed.
    """
    _only(said, FIELDS)
    duration = said["duration_ms"]
    event = Event(
        occurred_us=microseconds(datetime.fromisoformat(said["occurred_at"])),
        duration_us=None if duration is None else round(duration * 1000),
        **{name: said[name] for name in Event._fields if name in FIELDS},
    )
    recorded_us = microseconds(datetime.fromisoformat(said["recorded_at"]))
    return Entry(said["seq"], recorded_us, event, bytes.fromhex(said["hash"]))


def json_line(entry: Entry) -> bytes:
    """The entry as one line of JSON Lines."""
    return orjson.dumps(to_json(entry), option=orjson.OPT_APPEND_NEWLINE)


def csv_header() -> bytes:
    """The first line of a CSV."""
    return (",".join(FIELDS) + "\r\n").encode()


def csv_lines(entries: Sequence[Entry]) -> bytes:
    """Entries as lines of CSV (RFC 4180), with nothing in them that a spreadsheet would run as a formula."""
    written = io.StringIO()
    writer = csv.writer(written)
    for entry in entries:
        said = to_json(entry)
        said["detail"] = orjson.dumps(said["detail"], option=orjson.OPT_SORT_KEYS).decode()
        writer.writerow([cell(value) for value in said.values()])
    return written.getvalue().encode()


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as JSON: all that it takes to verify it."""
    return {
        "tenant": checkpoint.tenant,
        "seq": checkpoint.seq,
        "hash": checkpoint.hash.hex(),
        "recorded_at": _time(checkpoint.recorded_us),
        "kind": checkpoint.kind,
        "kid": checkpoint.kid,
        "signature": checkpoint.signature.hex(),
    }


def checkpoint_from_json(said: Mapping[str, Any]) -> Checkpoint:
    """What `checkpoint_json` gave.

    Raises:
        ValueError, TypeError, KeyError: it is no checkpoint, or says what nobody has signed.
    """
    _only(said, _CHECKPOINT_FIELDS)
    return Checkpoint(
        str(said["tenant"]),
        int(said["seq"]),
        bytes.fromhex(said["hash"]),
        microseconds(datetime.fromisoformat(said["recorded_at"])),
        said["kind"],
        str(said["kid"]),
        bytes.fromhex(said["signature"]),
    )


def check_end(said: Mapping[str, Any]) -> None:
    """See to it that the last line of a copy says nothing else than it may.

    Raises:
        ValueError: it does.
    """
    _only(said, _END_FIELDS)


def _only(said: Mapping[str, Any], fields: Sequence[str]) -> None:
    if more := [name for name in said if name not in fields]:
        raise ValueError(f"there is a field {more[0]!r} in it")


def _object(detail: Any) -> Any:
    return orjson.loads(detail) if isinstance(detail, str | bytes) else detail


def _time(microseconds: int) -> str:
    return time_of(microseconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def cell(value: object) -> object:
    """A value for a cell of CSV that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
