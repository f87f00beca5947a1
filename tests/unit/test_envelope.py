from __future__ import annotations

import time

import orjson
import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st

from trunkline.envelope import (
    TELLS_OF_ACCEPTED,
    Accepted,
    Call,
    Caller,
    Delivery,
    UnknownVersion,
    accepted_at,
    decode_caller,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FIELDS = {
    b"h": b"1\ncall\ntenant\nsession\n1000\n2000",
    b"b": b'{"jsonrpc":"2.0"}',
    b"a": b"{}",
    b"x": b"",
}


def entry(**others: bytes) -> list[bytes]:
    """The fields of a lane entry, as Redis gives them."""
    fields = FIELDS | {name.encode(): value for name, value in others.items()}
    return [part for pair in fields.items() for part in pair]


@given(
    st.builds(Caller, texts, texts, texts, st.lists(texts).map(tuple), st.lists(texts).map(tuple),
              st.none() | st.integers(0, 2**40))
)  # fmt: skip
def test_a_caller_comes_back_as_it_was(caller: Caller) -> None:
    assert Caller.decode(caller.encode()) == caller
    assert decode_caller(caller.encode()) == caller
    assert hash(decode_caller(caller.encode())) == hash(caller)


def test_a_call_is_read_from_its_lane_entry() -> None:
    call = Call.from_entry(3, b"5-0", entry())
    assert (call.id, call.tenant, call.session) == ("call", "tenant", "session")
    assert (call.enqueued_ms, call.deadline_ms, call.lane, call.entry) == (1000, 2000, 3, b"5-0")
    assert (call.body, call.context, call.transport, call.attempt) == (FIELDS[b"b"], b"", "sse", 1)
    assert call.wants_answer


def test_a_call_without_a_deadline_wants_no_answer() -> None:
    assert not Call.from_entry(0, b"5-0", entry(h=b"1\ncall\ntenant\nsession\n1000\n0")).wants_answer


def test_an_entry_of_another_version_is_refused_by_name() -> None:
    with pytest.raises(UnknownVersion, match="5-0 has version 2"):
        Call.from_entry(0, b"5-0", entry(h=b"2\ncall\ntenant\nsession\n1000\n2000"))


def test_an_entry_tells_the_transport_and_the_attempt_where_they_are_not_the_usual_ones() -> None:
    call = Call.from_entry(0, b"5-0", entry(t=b"modern", n=b"2", k=b"w1"))
    assert (call.transport, call.attempt) == ("modern", 2)


def test_deliveries_that_were_published_together_come_one_by_one() -> None:
    sent = [
        Delivery("5" * 32, 1, 7, b"call", orjson.dumps({"text": "two\nlines"})),
        Delivery(f"{'5' * 32}.{'6' * 32}", 3, 0, b"replaced", b""),
        Delivery("7" * 32, 2, 1, b"call.1-1", b"{}"),
    ]
    payload = b"1795651200000\n" + b"\n".join(b"%b\n%d\n%d\n%b\n%b" % (each[0].encode(), *each[1:]) for each in sent)
    assert Delivery.from_payload(payload) == (1795651200000, sent)


def test_the_id_of_a_call_tells_when_it_was_accepted() -> None:
    before = time.time()
    made = accepted_at(uuid_utils.uuid7().hex.encode())
    assert before - 0.002 <= made <= time.time()


def test_what_tells_of_accepted_requests_is_told_from_deliveries_by_its_first_byte() -> None:
    payload = b'\nS1\nC1\n1\nS1\nC2\n"x"'
    assert payload[0] == TELLS_OF_ACCEPTED
    assert Accepted.from_payload(payload) == [Accepted("S1", b"C1", b"1"), Accepted("S1", b"C2", b'"x"')]
