"""Goes over the entries of a chain in order and notes what is not as it was written. Pure.

What each finding means, and what it takes to leave none, is in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from trunkline.audit.chain import (
    CHECKPOINT_EVERY,
    Checkpoint,
    Entry,
    Head,
    canonical,
    genesis,
    link,
    time_of,
)
from trunkline.audit.signing import Signers, verifies

MOST_FINDINGS: Final = 100
"""A chain that was taken apart would otherwise have one for every entry."""

Kind = Literal[
    "changed",  # an entry is not the one that was hashed
    "gap",  # entries are missing
    "inserted",  # an entry that the chain does not have
    "reordered",  # an entry is older than the one before it
    "rewritten",  # the chain is not the one that was signed
    "checkpoint",  # a signature is missing or not good
    "head",  # what says how far the chain has come is not what was written
    "cut off",  # the last entries are missing
    "broken",  # the chain was extended although its head was not good
]


class Finding(NamedTuple):
    """One thing that is not as it was written."""

    kind: Kind
    seq: int | None
    """The number of the entry, where it is about one."""
    detail: str
    """One sentence for people."""


class Report(NamedTuple):
    """What was found in the chain of one tenant."""

    tenant: str
    entries: int
    """How many were looked at."""
    head: Head | None
    """How far the chain has come, as the database says."""
    findings: tuple[Finding, ...]
    """In the order of the chain; at most `MOST_FINDINGS`."""
    span: tuple[int, int] | None = None
    """Of a copy, the numbers of its first and last entry: what is before and behind them is not in it."""

    @property
    def intact(self) -> bool:
        """Whether everything is as it was written."""
        return not self.findings


class ChainCheck:
    """One pass over a chain: `add` the entries by number, then `close` with what else is known of it.

    After a finding it goes on from what is stored, so that one changed entry is one finding.
    """

    def __init__(self, tenant: str, checkpoints: Iterable[Checkpoint], signers: Signers) -> None:
        self.entries = 0
        self._tenant = tenant
        self._findings: list[Finding] = []
        self._signers = signers
        known = list(checkpoints)
        self._regular = {each.seq: each for each in known if each.kind == "regular"}
        self._retention = {each.seq: each for each in known if each.kind == "retention"}
        self._first = 0
        """The entry after which this pass begins."""
        self._seq = 0
        self._recorded_us = 0
        self._hash: bytes | None = genesis(tenant)
        """Of the entry before; None where that is not known, and the next can only be taken as it is."""
        self._anchor: Head | None = None
        self._round: dict[int, Entry] = {}
        """The entries that have a checkpoint, for a copy: what was signed is told at its end."""

    def start(self, base_seq: int, anchor: Head | None = None) -> None:
        """Begin after `base_seq`, the last entry that retention dropped; `anchor` is a head known from elsewhere."""
        self._first = self._seq = base_seq
        self._anchor = anchor
        if not base_seq:
            return
        base = self._retention.get(base_seq)
        self._hash = None
        if base is None:
            self._note("checkpoint", base_seq, f"Entries up to {base_seq} were dropped without a signed checkpoint.")
        elif self._is_signed(base):
            self._hash, self._recorded_us = base.hash, base.recorded_us

    def resume(self, seq: int, previous: bytes | None) -> None:
        """Begin after entry `seq`, whose hash is `previous`: for a copy that does not begin with the first entry."""
        self._first = self._seq = seq
        self._hash = previous

    def add(self, entry: Entry) -> None:
        """Look at the next entry."""
        self.entries += 1
        seq, recorded_us, event, digest = entry
        if seq != self._seq + 1:
            if seq <= self._seq:
                self._note("inserted", seq, f"There is a further entry {seq}.")
                return
            self._note("gap", seq, f"{_entries(self._seq + 1, seq - 1)} missing.")
            self._hash = None
        if self._hash is not None and not _fits(self._hash, entry):
            self._note("changed", seq, f"Entry {seq} ({event.action}) is not the one that was written.")
        if recorded_us < self._recorded_us:
            self._note("reordered", seq, f"Entry {seq} was recorded before the entry in front of it.")
        self._seq, self._recorded_us, self._hash = seq, recorded_us, digest
        if seq % CHECKPOINT_EVERY == 0:
            self._round[seq] = entry
            self._compare(entry, self._regular.get(seq))
        if self._anchor is not None and seq == self._anchor.seq and digest != self._anchor.hash:
            self._note("rewritten", seq, f"Entry {seq} has another hash than its head had, which Redis still knows.")

    def close(self, head: Head | None, *, sealed: bool) -> Report:
        """End with the head of the chain; `sealed` says whether its code is good."""
        self._missing_checkpoints()
        self._beyond()
        if head is None:
            if self._seq or self._anchor is not None:
                self._note("head", None, "The head of the chain is missing.")
        else:
            self._compare_head(head, sealed=sealed)
        if self._anchor is not None and self._anchor.seq > (head.seq if head else 0):
            at = head.seq if head else 0
            self._note("cut off", at, f"The chain had come to {self._anchor.seq}, as Redis still knows; now to {at}.")
        return Report(self._tenant, self.entries, head, tuple(self._findings))

    def close_copy(self, end: Checkpoint | None) -> Report:
        """End a copy of a part of the chain with what was signed when it was taken."""
        if end is None or end.kind != "export" or end.tenant != self._tenant:
            self._note("checkpoint", None, "The copy has no signature at its end.")
        elif self._is_signed(end):
            if end.seq > self._seq:
                self._note("cut off", self._seq, f"The copy ends at {self._seq}; it was taken up to {end.seq}.")
            elif end.seq < self._seq:
                self._note("inserted", self._seq, f"The copy was taken up to {end.seq}, and ends at {self._seq}.")
            elif end.hash != self._hash:
                self._note("rewritten", end.seq, "The copy is not the one that was signed when it was taken.")
        span = (self._first + 1, self._seq) if self.entries else None
        return Report(self._tenant, self.entries, None, tuple(self._findings), span)

    def compare_first(self, entry: Entry, previous: bytes) -> None:
        """Compare the first entry of a copy with the hash before it, which is known at the end."""
        if (entry.seq == 1 and previous != genesis(self._tenant)) or not _fits(previous, entry):
            self._note("changed", entry.seq, f"Entry {entry.seq} is not the one that was written.")

    def compare_signed(self, checkpoint: Checkpoint) -> None:
        """Compare a copy with a checkpoint of its chain."""
        if (entry := self._round.get(checkpoint.seq)) is None:
            self._note("checkpoint", checkpoint.seq, f"Entry {checkpoint.seq}, which was signed, is not in the copy.")
        else:
            self._compare(entry, checkpoint)

    def _compare(self, entry: Entry, checkpoint: Checkpoint | None) -> None:
        """Compare an entry that has a checkpoint with that."""
        if checkpoint is None or not self._is_signed(checkpoint):
            return
        if (checkpoint.hash, checkpoint.recorded_us) != (entry.hash, entry.recorded_us):
            self._note(
                "rewritten",
                entry.seq,
                f"Entry {entry.seq} has another hash than was signed at the time.",
            )

    def _is_signed(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.tenant == self._tenant and verifies(checkpoint, self._signers):
            return True
        known = checkpoint.kid in self._signers
        why = "is not good" if known else f"is of {checkpoint.kid or 'nobody'}, whose public key was not given"
        self._note("checkpoint", checkpoint.seq, f"The signature of the checkpoint at {checkpoint.seq} {why}.")
        return False

    def _missing_checkpoints(self) -> None:
        first = self._first // CHECKPOINT_EVERY + 1
        for seq in range(first * CHECKPOINT_EVERY, self._seq + 1, CHECKPOINT_EVERY):
            if seq not in self._regular:
                self._note("checkpoint", seq, f"The checkpoint at {seq} is missing.")

    def _beyond(self) -> None:
        """Signed checkpoints beyond the last entry show that there were more."""
        for seq in sorted(self._regular):
            if seq > self._seq and self._is_signed(self._regular[seq]):
                at = time_of(self._regular[seq].recorded_us).isoformat(timespec="seconds")
                self._note("cut off", seq, f"An entry {seq} was signed at {at}; the last one now is {self._seq}.")

    def _compare_head(self, head: Head, *, sealed: bool) -> None:
        if not sealed:
            self._note("head", head.seq, "The head of the chain was not written by Trunkline with this SECRET_KEY.")
        if head.broken_at is not None:
            self._note("broken", head.broken_at, f"After entry {head.broken_at} the head of the chain was not good.")
        if head.seq > self._seq:
            self._note("cut off", self._seq, f"{_entries(self._seq + 1, head.seq)} missing.")
        elif head.seq < self._seq:
            self._note("inserted", head.seq + 1, f"The head is at {head.seq}, and there are entries to {self._seq}.")
        elif self._hash is not None and head.hash != self._hash:
            self._note("rewritten", head.seq, "The head of the chain has another hash than its last entry.")

    def _note(self, kind: Kind, seq: int | None, detail: str) -> None:
        if len(self._findings) < MOST_FINDINGS:
            self._findings.append(Finding(kind, seq, detail))


def _fits(previous: bytes, entry: Entry) -> bool:
    try:
        return link(previous, canonical(entry.seq, entry.recorded_us, entry.event)) == entry.hash
    except TypeError:  # no event that was ever hashed
        return False


def _entries(first: int, last: int) -> str:
    return f"Entry {first} is" if first == last else f"Entries {first} to {last} are"
