from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.worker.context import LOG_LEVELS, SessionContext, decode_context

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
clients = st.none() | st.dictionaries(texts, texts | st.integers(-(2**53), 2**53) | st.booleans(), max_size=4)


@given(texts, clients, st.sampled_from(["", *LOG_LEVELS]))
def test_what_a_session_settled_comes_back_as_it_was(version: str, client: dict[str, object], level: str) -> None:
    context = SessionContext(version, client, level, ("tools", "prompts"))
    assert SessionContext.decode(context.encode()) == context
    assert decode_context(context.encode()) == context


def test_what_a_later_version_writes_is_read_as_far_as_it_is_known() -> None:
    assert SessionContext.decode(b'{"version":"v","of_tomorrow":1}') == SessionContext("v")


def test_nothing_stands_for_a_session_before_initialize() -> None:
    assert SessionContext.decode(b"") == SessionContext("", None, "")


def test_a_level_changes_nothing_else() -> None:
    context = SessionContext("2025-06-18", {"a": 1}, "")
    assert context.with_log_level("error") == SessionContext("2025-06-18", {"a": 1}, "error")
    assert context.log_level == ""


@given(st.sampled_from(LOG_LEVELS), st.sampled_from(LOG_LEVELS))
def test_a_line_is_wanted_if_it_is_as_severe_as_asked_for(least: str, level: str) -> None:
    wanted = SessionContext(log_level=least).wants_log(level)
    assert wanted == (LOG_LEVELS.index(level) >= LOG_LEVELS.index(least))


@given(st.none() | st.integers() | texts | st.lists(texts))
def test_without_a_level_and_for_levels_that_nobody_knows_every_line_is_wanted(level: object) -> None:
    assert SessionContext().wants_log(level)
    assert level in LOG_LEVELS or SessionContext(log_level="emergency").wants_log(level)
