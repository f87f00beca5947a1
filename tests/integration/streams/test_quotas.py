"""Limits of keys and monthly quotas in the scripts: exact in calls, and nothing for those who have none."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import uuid_utils
from tests.integration.streams.conftest import PLENTY, Wire

from trunkline.errors import QuotaExceeded, TooManyCalls, TooManyRequests
from trunkline.streams.bounds import Admission, Bounds, Share
from trunkline.streams.calls import Message, UseUnknown
from trunkline.streams.client import source
from trunkline.streams.quotas import QuotaUse, Used

SEED = b'["key_0a1","add","pod-a","aGFzaA=="]'
LIFE_MS = 660_000


def bounds(tenant: tuple[int | None, ...] = (None,) * 4, **share: object) -> Bounds:
    mine = Share("key_0a1", **share) if share else None  # type: ignore[arg-type]
    return Bounds.of(1e6, 1_000_000, 1000, quota=tenant, share=mine, life_ms=LIFE_MS)


async def send(wire: Wire, limits: Bounds, seed: bytes = SEED, request_id: bytes = b"1") -> Admission:
    call = uuid_utils.uuid7().hex
    return await wire.calls.accept(wire.owner, Message(call, wire.session, request_id, b"{}", seed), limits)


async def answer(wire: Wire) -> None:
    for claimed in await wire.claim():
        await wire.outbox.publish(claimed, b'{"answer":1}', "ok")


@pytest.fixture
async def month(wire: Wire) -> str:
    """The month, of which is known what was used: nothing."""
    name = datetime.fromtimestamp(wire.redis.clock.now(), UTC).strftime("%Y-%m")
    use = QuotaUse(wire.redis)
    assert await use.begin(wire.owner.tenant, name, "n") == []
    assert await use.finish(wire.owner.tenant, name, "n", {})
    return name


async def test_who_has_no_quota_and_no_limits_of_a_key_leaves_no_trace_of_them(wire: Wire) -> None:
    assert PLENTY.more == b""
    admitted = await send(wire, PLENTY)
    await answer(wire)
    assert admitted == Admission(999_999)
    left = await wire.redis.command("KEYS", wire.redis.keys.tenant(wire.owner.tenant).base.replace("{", "\\{") + "*")
    assert not [name for name in left if b":quota" in name or b":key:" in name]


async def test_as_many_calls_are_accepted_as_the_quota_has_however_many_come_at_once(wire: Wire, month: str) -> None:
    limits = bounds((10, None, None, None))
    outcomes = await asyncio.gather(*(send(wire, limits) for _ in range(30)), return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, QuotaExceeded)]
    assert (len(outcomes), len(refused)) == (30, 20)
    ends = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC) + timedelta(days=32)
    left = ends.replace(day=1).timestamp() - wire.redis.clock.now()
    assert refused[0].retry_after == pytest.approx(left, abs=5)
    await answer(wire)
    with pytest.raises(QuotaExceeded):
        await send(wire, limits)
    assert await QuotaUse(wire.redis).read(wire.owner.tenant, month) == Used(10, 0)


@pytest.mark.usefixtures("month")
async def test_messages_that_are_no_tool_calls_are_not_metered(wire: Wire) -> None:
    limits = bounds((1, None, None, None), in_flight=1)
    assert (await send(wire, limits)).used == (1, 0, 1, 0)
    for _ in range(3):
        assert (await send(wire, limits, seed=b"")).used is None
    assert (await send(wire, limits, seed=b"", request_id=b"")).used is None
    with pytest.raises(TooManyCalls, match="This API key"):
        await send(wire, limits)


@pytest.mark.usefixtures("month")
async def test_a_cancelled_call_is_over_and_counts(wire: Wire) -> None:
    limits = bounds((2, None, None, None), in_flight=1)
    await send(wire, limits)
    await wire.calls.cancel(wire.owner, wire.session, b"1")
    assert (await send(wire, limits)).used[:2] == (2, 0)
    await answer(wire)
    with pytest.raises(QuotaExceeded):
        await send(wire, limits)


@pytest.mark.usefixtures("month")
async def test_a_key_has_a_quota_beside_that_of_its_tenant(wire: Wire) -> None:
    limits = bounds((100, None, None, None), quota=(2, None, None, None))
    assert [(await send(wire, limits)).used for _ in range(2)] == [(1, 0, 1, 0), (2, 0, 2, 0)]
    with pytest.raises(QuotaExceeded):
        await send(wire, limits)
    await answer(wire)
    with pytest.raises(QuotaExceeded):
        await send(wire, limits)
    assert (await send(wire, bounds((100, None, None, None)))).used[:2] == (3, 0), "another key goes on"


async def test_a_keys_rate_is_told_and_enforced_beside_its_tenants(wire: Wire) -> None:
    limits = bounds(rate=0.5, burst=3)
    assert (limits.burst, limits.interval) == (3, 2.0)
    assert [(await send(wire, limits, seed=b"")).left for _ in range(3)] == [2, 1, 0]
    with pytest.raises(TooManyRequests, match="This API key") as refused:
        await send(wire, limits, seed=b"", request_id=b"")
    assert refused.value.retry_after == pytest.approx(2, abs=0.5)
    assert await send(wire, PLENTY)


async def test_a_rate_beyond_all_measure_refuses_nobody_elses_messages(wire: Wire) -> None:
    slow = bounds(rate=1e-18, burst=1)
    outcomes = await asyncio.gather(send(wire, PLENTY), send(wire, slow), send(wire, PLENTY, request_id=b"2"))
    assert [each.left for each in outcomes][1] == 0
    assert len(await wire.claim()) == 3


async def test_a_keys_most_in_flight_is_of_tool_calls_and_frees_as_they_end(wire: Wire) -> None:
    limits = bounds(in_flight=2)
    for _ in range(3):
        await send(wire, limits)
        await send(wire, limits)
        with pytest.raises(TooManyCalls, match="This API key"):
            await send(wire, limits)
        await answer(wire)
    assert await wire.redis.command("EXISTS", wire.redis.keys.key_open(wire.owner.tenant, "key_0a1")) == 0


@pytest.mark.usefixtures("month")
async def test_a_call_whose_end_was_lost_holds_its_place_no_longer_than_calls_live(wire: Wire) -> None:
    limits = Bounds.of(1e6, 10, 10, quota=(1, None, None, None), life_ms=-1)
    await send(wire, limits)
    await send(wire, limits)


async def test_the_soft_quota_is_told_once_as_an_event_and_with_each_answer_beyond(wire: Wire, month: str) -> None:
    limits = bounds((10, 2, None, None), quota=(None, 3, None, None))
    used = [(await send(wire, limits)).used for _ in range(5)]
    assert [each and each[0] for each in used] == [1, 2, 3, 4, 5]
    entries = await wire.redis.command(
        "XRANGE", wire.redis.keys.audit(wire.redis.keys.lane_of(wire.owner.tenant)), "-", "+"
    )
    events = [fields[1].split(b"\n") for _, fields in entries]
    assert [(lines[0].split(b":")[0].decode(), lines[1]) for lines in events] == [(wire.owner.tenant, b"ok")] * 2
    seeds = [orjson.loads(lines[-1]) for lines in events]
    told = {"month": month, "soft": 2, "used": 3}
    assert seeds[0] == {"action": "quota.soft", "target": "calls", "actor": "", "detail": told}
    assert (seeds[1]["actor"], seeds[1]["detail"]["used"]) == ("key_0a1", 4)


async def test_what_is_used_is_told_first_and_what_ended_meanwhile_is_counted(wire: Wire, month: str) -> None:
    limits = bounds((10, None, None, None), quota=(5, None, None, None))
    await wire.redis.command("DEL", wire.redis.keys.quota(wire.owner.tenant, month))
    with pytest.raises(UseUnknown) as unknown:
        await send(wire, limits)
    assert (unknown.value.month, unknown.value.of_tenant) == (month, True)
    await send(wire, limits.regardless())
    await answer(wire)
    await send(wire, limits.regardless())
    use = QuotaUse(wire.redis)
    found = await use.begin(wire.owner.tenant, month, "a")
    assert not isinstance(found, bool)
    assert [each.lines[0].startswith(wire.owner.tenant.encode()) for each in found] == [True]
    await answer(wire)
    assert await use.begin(wire.owner.tenant, month, "b") != []
    assert not await use.finish(wire.owner.tenant, month, "a", {"": Used(1, 5)}), "another began after it"
    assert await use.finish(wire.owner.tenant, month, "b", {"": Used(2, 7), "key_0a1": Used(2, 7)})
    assert await use.begin(wire.owner.tenant, month, "c") is True
    assert (await send(wire, limits)).used == (3, 7, 3, 7)


async def test_what_is_known_of_a_key_is_not_known_of_a_tenant_that_had_no_quota(wire: Wire, month: str) -> None:
    of_key, of_tenant = bounds(quota=(5, None, None, None)), bounds((10, None, None, None))
    use = QuotaUse(wire.redis)
    await use.forget(wire.owner.tenant, month)
    with pytest.raises(UseUnknown) as unknown:
        await send(wire, of_key)
    assert not unknown.value.of_tenant
    assert await use.begin(wire.owner.tenant, month, "a", of_tenant=False) == []
    assert await use.finish(wire.owner.tenant, month, "a", {}, of_tenant=False)
    assert (await send(wire, of_key)).used
    assert await use.read(wire.owner.tenant, month) is None
    with pytest.raises(UseUnknown):
        await send(wire, of_tenant)
    assert await use.begin(wire.owner.tenant, month, "b") == []
    assert await use.finish(wire.owner.tenant, month, "b", {"": Used(7)})
    assert (await send(wire, of_tenant)).used[:2] == (9, 0)
    assert (await send(wire, of_key)).used


async def test_a_month_is_what_the_calendar_says(wire: Wire) -> None:
    connection = await wire.redis.dial("test")
    script = source("month") + "local out = {} for _, ms in ipairs(ARGV) do local a, b = month(tonumber(ms)) "
    script += "table.insert(out, a) table.insert(out, string.format('%d', b)) end return out"
    days = [
        datetime(1999, 12, 31, 23, 59, 59, 999_000, UTC) + timedelta(days=number) for number in range(0, 40_000, 7)
    ]
    found = await connection.send("EVAL", script, 0, *(f"{round(day.timestamp() * 1000)}" for day in days))
    names, ends = found[::2], found[1::2]
    assert [name.decode() for name in names] == [day.strftime("%Y-%m") for day in days]
    firsts = [
        (day.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        for day in days
    ]
    assert [int(left) for left in ends] == [
        round((first - day).total_seconds() * 1000) for first, day in zip(firsts, days, strict=True)
    ]
    connection.close()
    await connection.lost
