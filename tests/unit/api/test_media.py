from __future__ import annotations

import pytest

from trunkline.api.media import accepted


@pytest.mark.parametrize(
    ("accept", "allowed"),
    [
        ("", True),
        ("*/*", True),
        ("text/*", True),
        ("text/event-stream", True),
        ("TEXT/Event-Stream; charset=utf-8", True),
        ("application/json, text/event-stream", True),
        ("application/json, */*;q=0.1", True),
        ("application/json", False),
        ("text/html, application/xhtml+xml", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0, */*", False),
        ("*/*, text/event-stream;q=0", False),
        ("*/*;q=0, text/event-stream", True),
        ("text/*;q=0.0, */*", False),
        ("*/*;q=0", False),
        (",;,", False),
    ],
)
def test_the_most_specific_range_of_an_accept_header_decides(accept: str, allowed: bool) -> None:
    assert accepted(accept).events is allowed


@pytest.mark.parametrize(
    ("accept", "json", "events"),
    [
        ("application/json, text/event-stream", True, True),
        ("text/event-stream, application/json", True, True),
        ("application/json", True, False),
        ("application/*", True, False),
        ("text/event-stream", False, True),
        ("*/*", True, True),
        ("", True, True),
        ("text/html", False, False),
        ("application/json;q=0, */*", False, True),
    ],
)
def test_a_client_takes_json_or_events_or_both(accept: str, json: bool, events: bool) -> None:
    assert accepted(accept)[:2] == (json, events)


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        ("text/event-stream, application/json", True),
        ("application/json, text/event-stream", False),
        ("application/json;q=0.5, text/event-stream", True),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream, application/json;q=0", False),
        ("text/event-stream, */*", False),
        ("text/event-stream", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_a_stream_is_preferred_where_both_are_named_and_it_has_more_weight_or_comes_first(
    accept: str, preferred: bool
) -> None:
    assert accepted(accept).prefers_events is preferred
