from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.chains import event

from trunkline.audit.chain import microseconds
from trunkline.audit.usage import UsageKey, Used, roll_up

DAY_US = 86_400_000_000

happened = st.builds(
    event,
    tenant=st.sampled_from(["a" * 32, "b" * 32]),
    occurred_us=st.integers(20_000 * DAY_US, 20_002 * DAY_US),
    actor=st.sampled_from([None, "key_1", "key_2"]),
    action=st.sampled_from(["tools/call", "tools/call", "key.issue"]),
    target=st.sampled_from(["add", "echo", None]),
    outcome=st.sampled_from(["ok", "error", "timeout"]),
    compute_us=st.integers(0, 10**9),
    bytes_in=st.integers(0, 10**6),
    bytes_out=st.integers(0, 10**6),
)


@given(events=st.lists(happened, max_size=60), cut=st.integers(0, 60))
def test_sums_are_those_of_the_events_however_they_are_batched(events, cut):
    whole = roll_up(events)
    first, second = roll_up(events[:cut]), roll_up(events[cut:])
    added = {key: first.get(key, Used()).plus(second.get(key, Used())) for key in first.keys() | second.keys()}
    assert whole == added
    calls = [each for each in events if each.action == "tools/call"]
    assert sum(used.calls for used in whole.values()) == len(calls)
    assert sum(used.errors for used in whole.values()) == sum(each.outcome != "ok" for each in calls)
    for name in ("compute_us", "bytes_in", "bytes_out"):
        assert sum(getattr(used, name) for used in whole.values()) == sum(getattr(each, name) for each in calls)


@given(each=happened)
def test_a_call_counts_for_its_tenant_day_key_and_tool(each):
    expected = UsageKey(
        each.tenant, date.fromordinal(each.occurred_us // DAY_US + date(1970, 1, 1).toordinal()), each.actor or "",
        each.target or "",
    )  # fmt: skip
    assert list(roll_up([each])) == ([expected] if each.action == "tools/call" else [])


def test_midnight_in_utc_parts_the_days():
    from datetime import UTC, datetime

    midnight = microseconds(datetime(2026, 11, 26, tzinfo=UTC))
    days = [key.day for key in roll_up([event(occurred_us=midnight - 1), event(occurred_us=midnight)])]
    assert days == [date(2026, 11, 25), date(2026, 11, 26)]
