from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.api.streaming import LastEvent
from trunkline.streams.sessions import new_session_id


@given(st.integers(0, 10**15 - 1))
def test_an_event_id_of_ours_is_read_back(offset: int) -> None:
    session = new_session_id()
    assert LastEvent.parse(f"{session}.{offset}") == LastEvent(session, offset)


@given(st.text(max_size=60))
def test_any_text_is_an_event_id_or_none(text: str) -> None:
    last = LastEvent.parse(text)
    assert last is None or (len(last.stream) == 32 and last.offset >= 0)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "x.1", "{s}", "{s}.", "{s}.-1", "{s}.+1", "{s}. 1", "{s}.1.2", "{s}.1_000", "{s}.\u0661",
        "{s}.\u00b2", "{s}.9999999999999999", "{s}x.1", "{s}:out.1", "\u00e9{s}.1",
    ],
)  # fmt: skip
def test_what_only_looks_like_one_is_none(text: str) -> None:
    assert LastEvent.parse(text.replace("{s}", "0" * 32)) is None
