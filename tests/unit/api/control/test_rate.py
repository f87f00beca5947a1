from __future__ import annotations

import pytest

from trunkline.api.control.rate import Allowances
from trunkline.api.heads import Head
from trunkline.api.http import Request
from trunkline.errors import TooManyRequests
from trunkline.settings import Settings


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def request(**headers: str) -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"method": "GET", "raw_path": b"/v1", "query_string": b"", "http_version": "1.1", "headers": pairs}
    return Request(Head(scope), None, None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def allowances(clock: Clock) -> Allowances:
    return Allowances(Settings(environment="dev", control_rate=2.0, control_burst=4), clock)


def test_the_burst_is_had_at_once_and_then_the_rate(allowances: Allowances, clock: Clock) -> None:
    left = [dict(allowances.count(request(), "a"))[b"ratelimit"] for _ in range(4)]
    assert left == [b'"control";r=%d;t=%d' % pair for pair in ((3, 1), (2, 1), (1, 2), (0, 2))]
    with pytest.raises(TooManyRequests) as refused:
        allowances.count(request(), "a")
    assert refused.value.retry_after == pytest.approx(0.5)
    clock.now += 0.5
    assert dict(allowances.count(request(), "a"))[b"ratelimit"] == b'"control";r=0;t=2'
    assert dict(allowances.count(request(), "b"))[b"ratelimit"] == b'"control";r=3;t=1'


def test_a_refusal_says_the_policy_too(allowances: Allowances) -> None:
    for _ in range(4):
        allowances.count(request(), "a")
    refused = request()
    with pytest.raises(TooManyRequests):
        allowances.count(refused, "a")
    assert dict(refused.cors)[b"ratelimit-policy"] == b'"control";q=4;w=2'


def test_a_credential_counts_as_its_principal_once_it_was_good_and_as_the_address_before(
    allowances: Allowances,
) -> None:
    mine = {"authorization": "Bearer tls_mine"}
    for _ in range(4):
        allowances.count(request(authorization="Bearer tls_guess"), "a")
    with pytest.raises(TooManyRequests):
        allowances.count(request(**mine), "a")
    allowances.note({b"authorization": b"Bearer tls_mine"}, "user:ada")
    allowances.note({b"cookie": b"trunkline-dev=mine"}, "user:ada")
    for credential in (mine, {"cookie": "trunkline-dev=mine"}) * 2:
        allowances.count(request(**credential), "a")
    with pytest.raises(TooManyRequests):
        allowances.count(request(**mine), "b")


def test_addresses_of_one_subscriber_share_an_allowance(allowances: Allowances) -> None:
    for last in range(4):
        allowances.count(request(), f"2001:db8:1:2::{last}")
    with pytest.raises(TooManyRequests):
        allowances.count(request(), "2001:db8:1:2:3:4:5:6")
    allowances.count(request(), "2001:db8:1:3::1")
