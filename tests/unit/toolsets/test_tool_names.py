from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from trunkline.toolsets.names import Names, fit, slug

FIT = re.compile(r"[A-Za-z0-9_-]{1,64}")
any_name = st.text(max_size=90) | st.sampled_from(["a", "b_a", "b", "b_b_a", "a" * 64, "a" * 65])


def test_a_name_stays_as_its_author_gave_it() -> None:
    names = Names()
    assert names.add("library", "search") == "search"
    assert names.kept("library")


def test_the_later_of_two_equal_names_gets_its_toolset_in_front() -> None:
    names = Names()
    names.add("library", "search")
    assert names.add("archive", "search") == "archive_search"
    assert names.owner("search") == ("library", "search")
    assert names.owner("archive_search") == ("archive", "search")
    assert names.kept("library")
    assert not names.kept("archive")


def test_a_prefixed_name_that_is_taken_too_gets_a_digest() -> None:
    names = Names()
    names.add("one", "b_a")
    names.add("one", "a")
    third = names.add("b", "a")
    assert FIT.fullmatch(third)
    assert third not in {"a", "b_a"}
    assert names.owner(third) == ("b", "a")


def test_a_long_name_is_cut_to_64_characters_and_stays_distinct() -> None:
    long, longer = "x" * 80, "x" * 81
    assert len(fit(long)) == 64
    assert fit(long) == fit(long)
    assert fit(long) != fit(longer)


def test_a_name_with_other_characters_gets_a_form_that_clients_take() -> None:
    assert FIT.fullmatch(fit("admin.tools/list"))
    assert fit("admin.tools") != fit("admin/tools")


def test_a_name_of_64_characters_is_left_alone() -> None:
    assert fit("y" * 64) == "y" * 64


def test_a_toolset_slug_has_at_most_32_plain_characters() -> None:
    assert slug("My Weather: Server") == "My-Weather-Server"
    assert slug("  ") == ""
    assert len(slug("n" * 50)) == 32


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "long" * 8]), any_name), max_size=30))
def test_names_are_unique_fit_and_the_same_each_time(added: list[tuple[str, str]]) -> None:
    first, second = Names(), Names()
    seen = [first.add(*each) for each in added]
    assert seen == [second.add(*each) for each in added]
    assert all(FIT.fullmatch(name) for name in seen)
    assert len(set(seen)) == len(set(added))
    assert all(first.owner(name) == each for name, each in zip(seen, added, strict=True))
    assert [first.add(*each) for each in added] == seen
