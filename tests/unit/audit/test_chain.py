from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.chains import TENANT, chain, event

from trunkline.audit.chain import canonical, check_detail, genesis, link, microseconds, time_of

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
whole = st.integers(-(2**63), 2**63 - 1)
details = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | whole | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(detail=details, target=texts, seq=st.integers(1, 2**62))
def test_the_canonical_form_is_what_the_documentation_says_for_any_json_library(detail: Any, target: str, seq: int):
    happened = event(detail=detail, target=target)
    said = [1, seq, 5, *happened]
    plain = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert canonical(seq, 5, happened) == plain


@given(detail=details)
def test_a_detail_that_is_taken_is_given_back_by_json_as_it_was(detail: Any):
    check_detail(detail)
    assert json.loads(json.dumps(detail)) == detail


@pytest.mark.parametrize(
    "detail",
    [
        {"share": 0.5},
        {"list": [1, [2, 0.5]]},
        {"inner": {"share": 1.0}},
        {"big": 2**63},
        {"text": "a\0b"},
        {"a\0": 1},
        {"half": "\ud800"},
        {1: "one"},
        {"when": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_detail_that_a_store_would_change_is_refused(detail: Any):
    with pytest.raises(ValueError, match="a detail of an audit event"):
        check_detail(detail)


def test_an_entry_is_hashed_with_the_hash_before_it():
    label = b"trunkline audit 1\n"
    assert genesis(TENANT) == sha256(label + TENANT.encode()).digest()
    assert link(b"\1" * 32, b"[1]") == sha256(label + b"\1" * 32 + b"[1]").digest()


def test_every_field_of_an_event_counts():
    seen = {canonical(1, 1, event())}
    for name in event()._fields:
        value = getattr(event(), name)
        other = {"a": 1} if name == "detail" else value + 1 if isinstance(value, int) else "other"
        seen.add(canonical(1, 1, event(**{name: other})))
    seen |= {canonical(2, 1, event()), canonical(1, 2, event())}
    assert len(seen) == 1 + len(event()._fields) + 2


def test_two_tenants_never_have_the_same_hash():
    assert genesis(TENANT) != genesis("0" * 32)
    assert chain(1)[0].hash != chain(1, genesis("0" * 32))[0].hash


@given(time=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_times_keep_their_microseconds(time: datetime):
    assert time_of(microseconds(time)) == time
