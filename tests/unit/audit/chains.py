"""Chains for tests, made as the writer makes them."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from trunkline.audit.chain import (
    CHECKPOINT_EVERY,
    Checkpoint,
    Entry,
    Event,
    Head,
    canonical,
    genesis,
    link,
)
from trunkline.audit.signing import CheckpointSigner, HeadSealer

TENANT = "0198f2a4c0de70008000000000000002"
ROOT = SecretStr("a root of at least thirty-two characters")
SIGNER = CheckpointSigner(ROOT)
SEALER = HeadSealer(ROOT)
START_US = 1_793_000_000_000_000


def event(number: int = 1, **changes: Any) -> Event:
    """Something that happened."""
    known: dict[str, Any] = {
        "tenant": TENANT,
        "id": f"{number:032x}",
        "occurred_us": START_US + number * 1_000,
        "actor_kind": "key",
        "actor": "key_1",
        "address": None,
        "action": "tools/call",
        "target": "add",
        "session_id": "session-1",
        "outcome": "ok",
        "duration_us": 12_000,
        "compute_us": 340,
        "bytes_in": 100,
        "bytes_out": 200,
        "arguments_hash": "ab" * 32,
        "api_pod": "api-1",
        "worker_pod": "worker-1",
        "request_id": "7",
        "detail": {},
    }
    return Event(**known | changes)


def chain(count: int, previous: bytes = genesis(TENANT), first: int = 1) -> list[Entry]:
    """So many entries, each chained to the one before."""
    entries = []
    for seq in range(first, first + count):
        each = event(seq)
        recorded_us = START_US + seq * 1_000_000
        previous = link(previous, canonical(seq, recorded_us, each))
        entries.append(Entry(seq, recorded_us, each, previous))
    return entries


def head_of(entries: list[Entry], **changes: Any) -> Head:
    """The head of these entries."""
    last = entries[-1]
    return Head(TENANT, last.seq, last.hash, last.recorded_us)._replace(**changes)


def signed(entry: Entry, kind: Any = "regular") -> Checkpoint:
    """A checkpoint at this entry."""
    return SIGNER.sign(Checkpoint(TENANT, entry.seq, entry.hash, entry.recorded_us, kind))


def checkpoints(entries: list[Entry]) -> list[Checkpoint]:
    """All that the writer signs for these."""
    return [signed(each) for each in entries if each.seq % CHECKPOINT_EVERY == 0]
