from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import UsageError
from trunkline.tenants.limits import NO_LIMITS, KeyLimits, Quotas, limits_of

COUNTS = st.none() | st.integers(1, 1_000_000)
LIMITS = st.builds(
    KeyLimits, st.none() | st.floats(0.01, 1_000_000), st.none(), COUNTS, COUNTS, st.none(), COUNTS, st.none(), COUNTS
)


@given(LIMITS)
def test_limits_travel_as_claims_and_come_back_as_they_were(limits: KeyLimits) -> None:
    checked = limits.check()
    assert limits_of(None if checked is None else checked.claims()) == checked


def test_no_limits_at_all_are_none() -> None:
    assert NO_LIMITS.check() is None
    assert NO_LIMITS.claims() == {}
    assert limits_of({}) is None


def test_a_rate_without_a_burst_lets_as_many_come_at_once_as_in_a_second() -> None:
    assert KeyLimits(rate=2.5).check() == KeyLimits(rate=2.5, burst=3)
    assert KeyLimits(rate=0.1).check() == KeyLimits(rate=0.1, burst=1)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (KeyLimits(rate=0), "A key's rate"),
        (KeyLimits(rate=float("nan")), "A key's rate"),
        (KeyLimits(rate=1e-9), "one a day"),
        (KeyLimits(burst=3), "goes with a rate"),
        (KeyLimits(rate=0.01, burst=25_921), "in 30 days"),
        (KeyLimits(rate=1, burst=0), "A key's burst"),
        (KeyLimits(in_flight=0), "A key's in_flight"),
        (KeyLimits(calls=0), "monthly quota (calls)"),
        (KeyLimits(calls=10**13), "monthly quota (calls)"),
        (KeyLimits(calls=10, calls_soft=11), "soft quota of calls"),
        (KeyLimits(compute=10, compute_soft=11), "soft quota of compute"),
    ],
)
def test_limits_that_cannot_be_are_refused_in_one_sentence(limits: KeyLimits, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        limits.check()
    assert sentence in refused.value.message


@pytest.mark.parametrize(
    "claim",
    [[], "rate", 1, {"rate": None}, {"rate": 1, "unknown": 1}, {"in_flight": 1.0}, {"rate": 1e-300, "burst": 1}],
)
def test_a_claim_that_is_not_understood_is_no_claim_that_is_ignored(claim: Any) -> None:
    with pytest.raises(ValueError, match="limit"):
        limits_of(claim)


def test_limits_are_within_others_when_they_allow_nothing_more() -> None:
    wide = KeyLimits(rate=10, burst=20, calls=100)
    assert KeyLimits(rate=5, burst=20, in_flight=1, calls=100).within(wide)
    assert wide.within(None)
    assert not KeyLimits(rate=5, burst=20).within(wide), "it has no quota"
    assert not KeyLimits(rate=11, burst=20, calls=1).within(wide)


def test_the_monthly_part_of_a_keys_limits() -> None:
    assert KeyLimits(calls=5, calls_soft=4, compute=3, compute_soft=2).quotas == Quotas(5, 4, 3, 2)
