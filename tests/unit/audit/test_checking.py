from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.chains import (
    ROOT,
    SIGNER,
    TENANT,
    chain,
    checkpoints,
    event,
    head_of,
    signed,
)

from trunkline.audit.chain import Checkpoint, Entry, Head, canonical, genesis, link
from trunkline.audit.checking import MOST_FINDINGS, ChainCheck, Report
from trunkline.audit.signing import CheckpointSigner

LONG = chain(2_003)
SIGNED = checkpoints(LONG)


def look(
    entries: Sequence[Entry],
    head: Head | None = None,
    *,
    known: Sequence[Checkpoint] = (),
    sealed: bool = True,
    base_seq: int = 0,
    anchor: Head | None = None,
) -> Report:
    check = ChainCheck(TENANT, known, SIGNER.signers())
    check.start(base_seq, anchor)
    for entry in sorted(entries, key=lambda each: each.seq):
        check.add(entry)
    return check.close(head, sealed=sealed)


def kinds(report: Report) -> list[str]:
    return [finding.kind for finding in report.findings]


def rehash(entries: Sequence[Entry], previous: bytes = genesis(TENANT)) -> list[Entry]:
    """What somebody with the database makes of changed entries, so that the hashes fit again."""
    again = []
    for entry in entries:
        previous = link(previous, canonical(entry.seq, entry.recorded_us, entry.event))
        again.append(entry._replace(hash=previous))
    return again


def test_a_chain_as_it_was_written_has_no_findings():
    report = look(LONG, head_of(LONG), known=SIGNED, anchor=head_of(LONG[:1_500]))
    assert report.intact
    assert report.entries == len(LONG)


def test_no_chain_at_all_has_no_findings():
    assert look([]).intact
    assert look([], Head(TENANT, 0, genesis(TENANT), 0)).intact


def test_a_changed_entry_is_one_finding():
    changed = list(LONG)
    changed[41] = changed[41]._replace(event=event(42, outcome="error"))
    report = look(changed, head_of(LONG), known=SIGNED)
    assert [(finding.kind, finding.seq) for finding in report.findings] == [("changed", 42)]


def test_a_changed_entry_with_a_hash_that_fits_changes_the_next_one():
    changed = list(LONG)
    changed[41:42] = rehash([changed[41]._replace(event=event(42, outcome="error"))], changed[40].hash)
    report = look(changed, head_of(LONG), known=SIGNED)
    assert [(finding.kind, finding.seq) for finding in report.findings] == [("changed", 43)]


def test_a_deleted_entry_is_a_gap():
    report = look([*LONG[:41], *LONG[43:]], head_of(LONG), known=SIGNED)
    assert [(finding.kind, finding.seq) for finding in report.findings] == [("gap", 44)]
    assert "42 to 43 are missing" in report.findings[0].detail


def test_a_second_entry_of_one_number_is_found():
    report = look([*LONG, LONG[41]._replace(event=event(99))], head_of(LONG), known=SIGNED)
    assert kinds(report) == ["inserted"]


def test_two_entries_that_changed_places_are_found():
    swapped = list(LONG)
    swapped[41], swapped[42] = swapped[42]._replace(seq=42), swapped[41]._replace(seq=43)
    report = look(swapped, head_of(LONG), known=SIGNED)
    assert "reordered" in kinds(report)
    assert "changed" in kinds(report)


def test_entries_that_are_cut_off_are_missed_by_the_head():
    assert kinds(look(LONG[:-2], head_of(LONG), known=SIGNED)) == ["cut off"]


def test_entries_beyond_the_head_are_found():
    assert kinds(look(LONG, head_of(LONG[:-1]), known=SIGNED)) == ["inserted"]


def test_a_chain_rewritten_without_the_key_does_not_have_the_hashes_that_were_signed():
    forged = list(LONG)
    forged[41] = forged[41]._replace(event=event(42, outcome="error"))
    forged = rehash(forged)
    report = look(forged, head_of(forged), known=SIGNED, sealed=False)
    assert kinds(report) == ["rewritten", "rewritten", "head"]
    assert kinds(look(forged[:500], head_of(forged[:500]), sealed=False)) == ["head"]


def test_a_checkpoint_that_was_forged_or_removed_is_found():
    other = CheckpointSigner(type(ROOT)("somebody else's root of thirty-two characters"))
    forged = [other.sign(SIGNED[0]), SIGNED[1]]
    assert kinds(look(LONG, head_of(LONG), known=forged)) == ["checkpoint"]
    passed_off = [SIGNED[0]._replace(signature=SIGNED[1].signature), SIGNED[1]]
    assert kinds(look(LONG, head_of(LONG), known=passed_off)) == ["checkpoint"]
    assert kinds(look(LONG, head_of(LONG), known=SIGNED[1:])) == ["checkpoint"]


def test_an_old_head_put_back_is_betrayed_by_the_signatures_and_by_redis():
    old = LONG[:900]
    assert kinds(look(old, head_of(old), known=SIGNED)) == ["cut off", "cut off"]
    assert kinds(look(old, head_of(old), anchor=head_of(LONG[:905]))) == ["cut off"]
    assert kinds(look([], None, anchor=head_of(old))) == ["head", "cut off"]
    assert kinds(look(old, None)) == ["head"]


def test_another_chain_of_the_same_length_is_betrayed_by_redis():
    forged = rehash([each._replace(event=event(7)) for each in LONG[:900]])
    assert kinds(look(forged, head_of(forged), anchor=head_of(LONG[:900]))) == ["rewritten"]


def test_a_chain_that_went_on_from_a_head_that_was_not_good_says_so_for_ever():
    report = look(LONG, head_of(LONG, broken_at=100), known=SIGNED)
    assert [(finding.kind, finding.seq) for finding in report.findings] == [("broken", 100)]


def test_what_retention_dropped_is_not_missed_and_the_rest_verifies():
    base = signed(LONG[1_200], "retention")
    rest = LONG[1_201:]
    assert look(rest, head_of(LONG, base_seq=1_201), known=[*SIGNED, base], base_seq=1_201).intact
    everything = look(
        [], head_of(LONG, base_seq=2_003), known=[*SIGNED, signed(LONG[-1], "retention")], base_seq=2_003
    )
    assert everything.intact


def test_a_beginning_that_was_dropped_without_a_signature_is_found():
    report = look(LONG[1_201:], head_of(LONG, base_seq=1_201), known=SIGNED, base_seq=1_201)
    assert kinds(report) == ["checkpoint"]
    forged = signed(LONG[1_200], "retention")._replace(seq=1_100)
    assert "checkpoint" in kinds(look(LONG[1_100:], head_of(LONG), known=[*SIGNED, forged], base_seq=1_100))


def test_findings_are_bounded():
    forged = [each._replace(hash=bytes([each.seq % 256]) * 32) for each in LONG]
    assert len(look(forged, head_of(LONG), known=SIGNED).findings) == MOST_FINDINGS


def test_what_was_never_an_event_is_a_changed_entry_and_no_error():
    strange = LONG[0]._replace(event=event(1, detail={"big": 2**70}))
    assert kinds(look([strange], head_of(LONG[:1]))) == ["changed"]


def copied(entries: Sequence[Entry], end: Checkpoint | None, previous: bytes | None = None) -> Report:
    check = ChainCheck(TENANT, [], SIGNER.signers())
    check.resume(entries[0].seq - 1, previous)
    for entry in entries:
        check.add(entry)
    return check.close_copy(end)


def test_a_copy_of_a_part_verifies_with_what_was_signed_at_its_end():
    part = LONG[10:20]
    end = signed(part[-1], "export")
    assert copied(part, end, LONG[9].hash).intact
    assert kinds(copied(part[:-1], end, LONG[9].hash)) == ["cut off"]
    assert kinds(copied(part, signed(part[-2], "export"), LONG[9].hash)) == ["inserted"]
    assert kinds(copied(part, None, LONG[9].hash)) == ["checkpoint"]
    assert kinds(copied(part, signed(part[-1]), LONG[9].hash)) == ["checkpoint"]
    forged = rehash([part[0]._replace(event=event(3)), *part[1:]], LONG[9].hash)
    assert kinds(copied(forged, end, LONG[9].hash)) == ["rewritten"]


def remove(entries: list[Entry], at: int) -> None:
    del entries[at]


def change(entries: list[Entry], at: int) -> None:
    entries[at] = entries[at]._replace(event=entries[at].event._replace(target="other"))


def move_in_time(entries: list[Entry], at: int) -> None:
    entries[at] = entries[at]._replace(recorded_us=entries[at].recorded_us + 1)


def rewrite(entries: list[Entry], at: int) -> None:
    change(entries, at)
    entries[:] = rehash(entries)


def repeat(entries: list[Entry], at: int) -> None:
    entries.insert(at, entries[at])


@given(
    length=st.integers(1, 40),
    place=st.integers(0, 39),
    tamper=st.sampled_from([remove, change, move_in_time, rewrite, repeat]),
)
def test_whatever_is_done_to_one_entry_is_found(length: int, place: int, tamper: Callable[[list[Entry], int], None]):
    entries = list(LONG[:length])
    head = head_of(entries)
    assert look(entries, head).intact
    tamper(entries, place % length)
    assert not look(entries, head).intact


@pytest.mark.parametrize("count", [1, 2, 999, 1_000, 1_001, 2_003])
def test_a_chain_is_intact_at_any_length(count: int):
    assert look(LONG[:count], head_of(LONG[:count]), known=checkpoints(LONG[:count])).intact
