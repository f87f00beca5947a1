from __future__ import annotations

import pytest

from trunkline.toolsets.access import allowed, filter_listing


@pytest.mark.parametrize(
    ("patterns", "tool", "expected"),
    [
        ((), "anything", False),
        (("search",), "search", True),
        (("search",), "search_all", False),
        (("library_*",), "library_search", True),
        (("library_*", "echo"), "echo", True),
        (("Echo",), "echo", False),
        (("*",), "anything", True),
    ],
)
def test_a_key_may_call_the_tools_that_its_patterns_name(
    patterns: tuple[str, ...], tool: str, expected: bool
) -> None:
    assert allowed(patterns, tool) is expected


def test_a_listing_shows_only_what_the_key_may_call() -> None:
    listing = {"tools": [{"name": "search"}, {"name": "lend"}], "nextCursor": "2"}
    assert filter_listing(listing, ("s*",)) == {"tools": [{"name": "search"}], "nextCursor": "2"}
    assert len(listing["tools"]) == 2


def test_a_key_for_every_tool_sees_the_listing_itself_and_one_for_none_sees_nothing() -> None:
    listing = {"tools": [{"name": "search"}]}
    assert filter_listing(listing, ("*",)) is listing
    assert filter_listing(listing, ())["tools"] == []
