from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import UsageError
from trunkline.tenants.key_options import check_lifetime, parse_duration
from trunkline.tenants.patterns import check_tools, patterns_cover
from trunkline.tenants.settable import parse_changes
from trunkline.toolsets.access import allowed


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("90d", timedelta(days=90)),
        ("24h", timedelta(hours=24)),
        ("30m", timedelta(minutes=30)),
        ("45s", timedelta(seconds=45)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_durations_are_a_number_and_a_unit(value: str, meant: timedelta) -> None:
    assert parse_duration(value) == meant


@pytest.mark.parametrize("value", ["", "90", "d", "1.5d", "-1d", "1y", "1 d", "9999999d", "\u0661d"])
def test_what_is_no_duration_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(value)


def test_a_key_lives_from_a_minute_to_a_leap_year() -> None:
    assert check_lifetime(timedelta(minutes=1)) == timedelta(minutes=1)
    assert check_lifetime(timedelta(days=366)) == timedelta(days=366)
    for lifetime in (timedelta(0), timedelta(seconds=59), timedelta(days=367)):
        with pytest.raises(UsageError, match="1 minute"):
            check_lifetime(lifetime)


def test_tool_patterns_are_few_and_could_be_names() -> None:
    assert check_tools([]) == ("*",)
    assert check_tools(["a", "b_*", "a"]) == ("a", "b_*")
    for pattern in ("", "a b", "a" * 65, "ä", "a,b"):
        with pytest.raises(UsageError, match="is not a tool pattern"):
            check_tools([pattern])
    with pytest.raises(UsageError, match="at most 32"):
        check_tools(f"tool{number}" for number in range(33))


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (["*"], ["files_*", "add"], True),
        (["files_*", "add"], ["add"], True),
        (["files_*"], ["files_read", "files_*"], True),
        (["files_*"], ["files_read_?"], True),
        (["file?"], ["files"], True),
        (["files_*"], ["*"], False),
        (["files_*"], ["file*"], False),
        (["files_*"], ["add"], False),
        (["files_read"], ["files_*"], False),
        (["a[bc]*"], ["ab*"], False),
        (["*s"], ["files_*s"], False),
    ],
)
def test_patterns_cover_others_where_that_is_plain_to_see(outer: list[str], inner: list[str], covered: bool) -> None:
    assert patterns_cover(outer, inner) is covered


_PATTERNS = st.lists(st.text("ab*?", min_size=1, max_size=4), min_size=1, max_size=3)


@given(_PATTERNS, _PATTERNS, st.text("ab", min_size=1, max_size=5))
def test_what_covered_patterns_allow_is_allowed_by_those_that_cover(
    outer: list[str], inner: list[str], tool: str
) -> None:
    if patterns_cover(outer, inner) and allowed(inner, tool):
        assert allowed(outer, tool)


def test_settings_of_a_tenant_are_read_by_their_kind() -> None:
    changes = {"name": "Acme Ltd", "access": "public", "rate": "2.5", "burst": "10", "in_flight": "default"}
    assert parse_changes(changes) == {
        "name": "Acme Ltd",
        "access": "public",
        "rate": 2.5,
        "burst": 10,
        "in_flight": None,
    }


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("colour", "red", "'colour' cannot be set; what can be set of a tenant: name, access, rate"),
        ("version", "7", "cannot be set"),
        ("access", "private", "access is key or public"),
        ("rate", "fast", "A rate is a number"),
        ("rate", "nan", "A rate is a number"),
        ("rate", "inf", "A rate is a number"),
        ("rate", "0", "A rate is a number"),
        ("burst", "0", "whole number"),
        ("burst", "1.5", "whole number"),
        ("in_flight", "-1", "whole number"),
        ("sessions", "9" * 5_000, "whole number"),
        ("sessions", "\u0661", "whole number"),
        ("name", "", "A name has"),
        ("name", "a\x1b[2J", "A name has"),
        ("name", "a" * 201, "A name has"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_changes({name: value})
    assert sentence in refused.value.message
    assert "\n" not in refused.value.message


def test_setting_nothing_says_what_can_be_set() -> None:
    with pytest.raises(UsageError, match="There is nothing to set; what can be set"):
        parse_changes({})
