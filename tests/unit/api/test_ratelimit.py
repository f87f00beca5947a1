from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.api.ratelimit import RateLimit
from trunkline.errors import QuotaExceeded, TooManyCalls, TooManyRequests
from trunkline.streams.bounds import Admission, Bounds, Share
from trunkline.tenants.limits import Quotas

PLAIN = RateLimit(Bounds.of(2000, 4000, 1000))
NOW = datetime(2026, 11, 30, 23, 59, 0, tzinfo=UTC).timestamp()


def told(headers: object) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}  # type: ignore[attr-defined]


def test_an_answer_tells_the_rate_and_what_is_left_of_it() -> None:
    limit = RateLimit(Bounds.of(2, 10, 5))
    assert told(limit.accepted(Admission(7), lambda: NOW)) == {
        "ratelimit-policy": '"rate";q=10;w=5',
        "ratelimit": '"rate";r=7;t=2',
    }


def test_of_a_large_burst_what_is_left_is_told_roughly_and_never_too_high() -> None:
    assert told(PLAIN.accepted(Admission(3999), lambda: NOW))["ratelimit"] == '"rate";r=3960;t=1'
    assert told(PLAIN.accepted(Admission(37), lambda: NOW))["ratelimit"] == '"rate";r=37;t=2'


@given(st.integers(1, 100_000), st.data())
def test_what_is_told_to_be_left_is_left(burst: int, data: st.DataObject) -> None:
    left = data.draw(st.integers(0, burst))
    value = told(RateLimit(Bounds.of(10, burst, 5)).accepted(Admission(left), lambda: NOW))["ratelimit"]
    said = int(value.split(";r=")[1].split(";")[0])
    assert max(left - burst // 100, 0) <= said <= left


def test_answers_that_tell_the_same_share_one_value() -> None:
    assert PLAIN.accepted(Admission(3999), lambda: NOW) is PLAIN.accepted(Admission(3961), lambda: NOW)


def test_a_message_that_was_accepted_before_tells_nothing() -> None:
    assert PLAIN.accepted(Admission(-1), lambda: NOW) == ()


def test_a_keys_own_rate_is_told_in_its_tenants_place() -> None:
    share = Share("key_1", rate=0.5, burst=3)
    limit = RateLimit(Bounds.of(2000, 4000, 1000, share=share, life_ms=1000))
    assert told(limit.accepted(Admission(2), lambda: NOW))["ratelimit-policy"] == '"rate";q=3;w=6'


def test_quotas_are_told_with_what_is_left_of_the_tightest_until_the_month_ends() -> None:
    limit = RateLimit(Bounds.of(2, 10, 5), Quotas(calls=100, compute=60), Quotas(calls=10))
    answer = told(limit.accepted(Admission(9, (20, 1_500_000, 8, 0)), lambda: NOW))
    assert answer["ratelimit-policy"] == '"rate";q=10;w=5, "calls";q=10;w=2592000, "compute";q=60;w=2592000'
    assert answer["ratelimit"] == '"rate";r=9;t=1, "calls";r=2;t=60, "compute";r=58;t=60'
    assert "trunkline-quota" not in answer


def test_beyond_a_soft_quota_each_answer_says_so() -> None:
    limit = RateLimit(Bounds.of(2, 10, 5), Quotas(calls_soft=20, compute_soft=1), Quotas(calls_soft=7))
    assert "trunkline-quota" not in told(limit.accepted(Admission(9, (20, 1_000_000, 7, 0)), lambda: NOW))
    answer = told(limit.accepted(Admission(9, (21, 1_000_001, 8, 0)), lambda: NOW))
    assert answer["trunkline-quota"] == "calls;soft=20;used=21, compute;soft=1;used=2, calls;soft=7;used=8;key"
    assert answer["ratelimit-policy"] == '"rate";q=10;w=5', "a soft quota is no limit"


@pytest.mark.parametrize(
    ("error", "policy", "left"),
    [
        (TooManyRequests(retry_after=1.2), '"rate";q=10;w=5', '"rate";r=0;t=2'),
        (TooManyCalls(retry_after=1), '"in-flight";q=5', '"in-flight";r=0;t=1'),
        (QuotaExceeded(retry_after=9, data={"quota": "calls"}), '"calls";q=50;w=2592000', '"calls";r=0;t=9'),
        (QuotaExceeded(retry_after=9, data={"quota": "compute"}), '"compute";q=60;w=2592000', '"compute";r=0;t=9'),
    ],
)
def test_a_refusal_says_which_limit_it_was_and_when_to_come_back(
    error: TooManyRequests, policy: str, left: str
) -> None:
    limit = RateLimit(Bounds.of(2, 10, 5), Quotas(calls=100, compute=60), Quotas(calls=50))
    assert told(limit.refused(error)) == {"ratelimit-policy": policy, "ratelimit": left}
