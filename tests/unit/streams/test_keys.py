from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.settings import Settings
from trunkline.streams import keys as module
from trunkline.streams.keys import Keys

KEYS = Keys(Settings(environment="dev", redis_prefix="p:"))
tenants = st.text("0123456789abcdef", min_size=32, max_size=32)


def test_no_key_of_a_tenant_is_built_without_the_tenant() -> None:
    for build in (KEYS.tenant, KEYS.lane_of, lambda tenant: KEYS.stream(tenant, "s"), lambda t: KEYS.ticket(t, "d")):
        with pytest.raises(ValueError, match="needs the tenant"):
            build("")


@given(tenants)
def test_all_keys_that_a_script_touches_are_on_one_shard(tenant: str) -> None:
    found = KEYS.tenant(tenant)
    names = (
        found.calls, found.deadlines, found.usage, found.sessions,
        *KEYS.stream(tenant, "5" * 32), KEYS.ticket(tenant, "d"),
        KEYS.audit(found.number), KEYS.unwritten(found.number),
    )  # fmt: skip
    assert {re.findall(r"\{(.*?)\}", name)[0] for name in names} == {f"l{KEYS.lane_of(tenant)}"}
    assert all(name.startswith("p:{l") for name in names)
    assert len(set(names)) == len(names)


@given(tenants, tenants)
def test_two_tenants_share_no_key_but_those_of_their_lane(one: str, other: str) -> None:
    mine, theirs = KEYS.stream(one, "s"), KEYS.stream(other, "s")
    assert one == other or not set(mine) & set(theirs)
    assert one == other or KEYS.tenant(one).usage != KEYS.tenant(other).usage


def test_a_tenant_keeps_its_lane_for_good() -> None:
    lanes = [KEYS.lane_of(f"{number:032x}") for number in range(1000)]
    assert lanes[:4] == [0, 6, 12, 10]
    counts = [lanes.count(lane) for lane in range(16)]
    assert min(counts) > 30, "tenants are spread"


def test_every_kind_of_key_is_in_the_table() -> None:
    table = module.__doc__ or ""
    for part in (":calls", ":audit", ":deadlines", ":out", ":sessions", ":usage", ":k:", ":pod:"):
        assert part in table
    for name in (KEYS.control, KEYS.revoked, KEYS.workers, "p:snapshot:"):
        assert f"`{name.removeprefix('p:').split(':')[0]}" in table
