"""Who is dead, by what one process has seen."""

from __future__ import annotations

from trunkline.streams.workers import Vigil


def test_a_worker_whose_sign_stands_still_for_three_seconds_is_dead() -> None:
    vigil = Vigil()
    assert [vigil.dead({"w": 1000.0}, (), now) for now in (0.0, 1.0, 2.0)] == [set()] * 3
    assert vigil.dead({"w": 1000.0}, (), 3.0) == {"w"}


def test_a_new_sign_starts_the_time_anew() -> None:
    vigil = Vigil()
    for now in range(10):
        assert vigil.dead({"w": 1000.0 + now}, (), now) == set()


def test_a_claimant_without_a_sign_is_given_as_long() -> None:
    vigil = Vigil()
    assert [vigil.dead({}, ["w"], now) for now in (0.0, 1.5)] == [set()] * 2
    assert vigil.dead({}, ["w"], 3.0) == {"w"}


def test_time_during_which_nobody_looked_proves_nothing() -> None:
    vigil = Vigil()
    assert vigil.dead({"w": 1000.0}, (), 0.0) == set()
    assert vigil.dead({"w": 1000.0}, (), 60.0) == set()
    assert vigil.dead({"w": 1000.0}, (), 62.0) == set()
    assert vigil.dead({"w": 1000.0}, (), 63.0) == {"w"}


def test_a_clock_that_was_set_back_is_a_sign_as_good_as_any() -> None:
    vigil = Vigil()
    for now, sign in enumerate((300_000.0, 301_000.0, 1_000.0, 2_000.0, 3_000.0)):
        assert vigil.dead({"w": sign}, (), now) == set()
