from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.api.auth import PUBLIC, Identity, Throttle, authorized
from trunkline.envelope import decode_caller
from trunkline.errors import TooManyRequests
from trunkline.streams.sessions import Owner
from trunkline.tenants.model import ALL_TOOLS, SCOPES, Limits, Principal, Tenant, public_principal

TENANT = Tenant("0" * 32, "acme", "Acme", "key", "active", Limits(10.0, 20, 5, 7), (), 1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admitted(throttle: Throttle, address: str, tries: int, rate: float, burst: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            throttle.check(address, rate, burst)
        except TooManyRequests:
            continue
        count += 1
    return count


@given(st.floats(0.1, 1000), st.integers(1, 50))
def test_a_burst_is_admitted_and_not_more(rate: float, burst: int) -> None:
    throttle = Throttle("Slower.", Clock())
    assert admitted(throttle, "a", burst + 10, rate, burst) in {burst, burst - 1}, (
        "but for the rounding of one interval"
    )


def test_who_waits_as_told_is_admitted_again() -> None:
    clock = Clock()
    throttle = Throttle("Slower.", clock)
    assert admitted(throttle, "a", 10, 2.0, 3) == 3
    with pytest.raises(TooManyRequests) as refused:
        throttle.check("a", 2.0, 3)
    assert refused.value.retry_after == pytest.approx(0.5)
    clock.now += 0.51
    assert admitted(throttle, "a", 10, 2.0, 3) == 1


@given(st.integers(1, 20), st.integers(1, 100))
def test_over_time_no_address_gets_more_than_its_rate_and_burst(burst: int, seconds: int) -> None:
    clock = Clock()
    throttle = Throttle("Slower.", clock)
    count = 0
    for _ in range(seconds * 10):
        clock.now += 0.1
        count += admitted(throttle, "a", 3, 5.0, burst)
    assert count <= seconds * 5 + burst + 1


def test_addresses_do_not_pay_for_each_other_and_old_ones_are_forgotten() -> None:
    throttle = Throttle("Slower.", Clock())
    for number in range(21_000):
        throttle.check(str(number), 1.0, 1)
    assert len(throttle._due) == 20_000
    with pytest.raises(TooManyRequests):
        throttle.check("20999", 1.0, 1)


def test_an_identity_says_whose_sessions_its_caller_owns() -> None:
    anyone = Identity.of(TENANT, public_principal(TENANT))
    assert anyone.owner == Owner(TENANT.id, PUBLIC)
    assert decode_caller(anyone.caller).expires_at is None
    holder = Identity.of(TENANT, Principal(TENANT.id, "acme", "key_1", frozenset(SCOPES), ALL_TOOLS, 1234.9))
    assert holder.owner == Owner(TENANT.id, "key_1")
    caller = decode_caller(holder.caller)
    assert (caller.key_id, caller.slug, caller.scopes, caller.expires_at) == (
        "key_1", "acme", tuple(sorted(SCOPES)), 1234,
    )  # fmt: skip
    assert holder.bounds.in_flight == 5
    assert math.isclose(holder.bounds.interval_us, 100_000)


def test_a_stream_stays_open_only_while_its_tenant_would_let_it_in() -> None:
    holder, anyone = Owner(TENANT.id, "key_1"), Owner(TENANT.id, PUBLIC)
    public = replace(TENANT, access="public")
    assert authorized(TENANT, holder)
    assert authorized(public, holder)
    assert authorized(public, anyone)
    assert not authorized(TENANT, anyone)
    assert not authorized(None, holder)
    assert not authorized(replace(public, status="suspended"), holder)
    assert not authorized(replace(public, id="1" * 32), holder), "the name was given to another tenant"
