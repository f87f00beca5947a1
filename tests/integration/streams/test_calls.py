"""Accept, claim, publish, cancel and sweep: the promises of the scripts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest
from tests.integration.streams.conftest import Wire

from trunkline.errors import AuditBacklogFull, SessionNotFound, TooManyRequests, Unavailable
from trunkline.settings import Settings
from trunkline.streams.audit import EVENT_LINES, AuditFeed
from trunkline.streams.bounds import Bounds
from trunkline.streams.calls import Calls
from trunkline.streams.client import Redis, source
from trunkline.streams.control import CallCancelled, Event, decode
from trunkline.streams.sessions import Owner


async def test_an_accepted_call_reaches_a_worker_whole(wire: Wire) -> None:
    call = await wire.accept(b'{"jsonrpc":"2.0","id":7,"method":"ping"}', request_id=b"7")
    (claimed,) = await wire.claim()
    assert (claimed.id, claimed.tenant, claimed.session) == (call, wire.owner.tenant, wire.session)
    assert claimed.body == b'{"jsonrpc":"2.0","id":7,"method":"ping"}'
    assert claimed.wants_answer
    assert claimed.deadline_ms - claimed.enqueued_ms == 60_000


async def test_an_answer_is_appended_once_and_leaves_nothing_behind(wire: Wire) -> None:
    await wire.accept()
    (claimed,) = await wire.claim()
    assert await wire.outbox.publish(claimed, b'{"answer":1}', "ok") == 1
    assert await wire.outbox.publish(claimed, b'{"answer":2}', "ok") == 0
    assert await wire.sent() == [(1, b'{"answer":1}')]
    assert await wire.in_flight() == 0
    assert await wire.pending() == 0
    lane = wire.redis.keys.tenant(wire.owner.tenant)
    assert await wire.redis.command("XLEN", lane.calls) == 0
    assert await wire.redis.command("ZCARD", lane.deadlines) == 0


async def test_a_repeated_script_changes_nothing_more(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection broke before the answer of a script came: it is sent again, and says so."""
    connection = await wire.redis.dial("test")
    scripts: list[tuple[object, ...]] = []

    async def run_twice(name: str, keys: list[str], args: list[object], **_: object) -> object:
        script = ("EVAL", source(name), len(keys), *keys, *args)
        scripts.append(script)
        first = await connection.send(*script, 0)  # type: ignore[arg-type]
        again = await connection.send(*script, 1)  # type: ignore[arg-type]
        return first if name == "publish" else again

    monkeypatch.setattr(wire.redis, "script", run_twice)
    lane = wire.redis.keys.tenant(wire.owner.tenant)
    await wire.accept(seed=b'{"id":1}')
    assert await wire.redis.command("XLEN", lane.calls) == 1
    assert await wire.in_flight() == 1
    (claimed,) = await wire.claim()
    assert await wire.outbox.notify(claimed, 1, b"progress") == 1
    assert await wire.outbox.publish(claimed, b"answer", "ok") == 2
    assert await connection.send(*scripts[0], 1) == [-1]  # type: ignore[arg-type]
    connection.close()
    assert await wire.redis.command("XLEN", lane.calls) == 0
    assert await wire.redis.command("XLEN", wire.redis.keys.audit(lane.number)) == 1
    assert await wire.in_flight() == 0
    assert await wire.sent() == [(1, b"progress"), (2, b"answer")]


async def test_an_answer_that_redis_refuses_takes_no_other_with_it(wire: Wire) -> None:
    for _ in range(3):
        await wire.accept()
    broken, *others = await wire.claim()
    broken = broken._replace(tenant="f" * 32, session="0" * 32)
    session = f"{wire.redis.keys.lane(broken.lane)}t:{broken.tenant}:s:{broken.session}"
    await wire.redis.command("SET", session, "not a session")
    offsets = await asyncio.gather(*(wire.outbox.publish(call, b"{}", "ok") for call in (broken, *others)))
    assert sorted(offsets) == [0, 1, 2]


async def test_offsets_are_contiguous_over_concurrent_answers(wire: Wire) -> None:
    for number in range(15):
        await wire.accept(request_id=str(number).encode())
    claimed = await wire.claim()
    offsets = await asyncio.gather(*(wire.outbox.publish(call, b"{}", "ok") for call in claimed))
    assert sorted(offsets) == list(range(1, 16))


async def test_a_worker_claims_no_more_than_it_has_slots_for(wire: Wire) -> None:
    for _ in range(10):
        await wire.accept()
    claimed: list[str] = []
    for _ in range(8):
        batch = await wire.claim(3)
        assert len(batch) <= 3
        claimed += [call.id for call in batch]
    assert len(set(claimed)) == len(claimed) > 0


async def test_every_lane_gets_its_turn_however_few_slots_are_free(wire: Wire) -> None:
    for _ in range(3):
        await wire.accept()
    seen = 0
    for _ in range(wire.redis.keys.lanes * 3 + 3):
        seen += len(await wire.claim(1))
    assert seen == 3


async def test_a_claim_whose_reply_was_lost_is_found_again(wire: Wire) -> None:
    lost = await wire.accept()
    assert len(await wire.claim()) == 1
    (found,) = await wire.reader.recover()
    assert found.id == lost
    await wire.outbox.publish(found, b"{}", "ok")
    assert await wire.reader.recover() == []


async def test_a_foreign_or_unknown_session_accepts_nothing(wire: Wire) -> None:
    strangers = [Owner(wire.owner.tenant, "key_two"), Owner("f" * 32, wire.owner.principal)]
    for stranger in strangers:
        with pytest.raises(SessionNotFound):
            await replace(wire, owner=stranger).accept()
    with pytest.raises(SessionNotFound):
        await replace(wire, session="0" * 32).accept()
    assert await wire.claim(16) == []


async def test_a_tenant_at_its_rate_is_refused_with_the_time_to_wait(wire: Wire) -> None:
    bounds = Bounds.of(rate=1, burst=3, in_flight=100)
    for _ in range(3):
        await wire.accept(bounds=bounds)
    with pytest.raises(TooManyRequests) as refused:
        await wire.accept(bounds=bounds)
    assert 0 < (refused.value.retry_after or 0) <= 1


async def test_a_tenant_with_its_calls_in_flight_is_refused_until_one_is_answered(wire: Wire) -> None:
    bounds = Bounds.of(rate=1e6, burst=1000, in_flight=2)
    await wire.accept(bounds=bounds)
    await wire.accept(bounds=bounds)
    with pytest.raises(TooManyRequests):
        await wire.accept(bounds=bounds)
    first, *_ = await wire.claim()
    await wire.outbox.publish(first, b"{}", "ok")
    await wire.accept(bounds=bounds)


async def test_a_full_lane_is_refused_before_acceptance(wire: Wire, redis_settings: Settings) -> None:
    redis = await Redis.connect(redis_settings.model_copy(update={"lane_max_length": 2}), "test")
    short = replace(wire, calls=Calls(redis))
    await short.accept()
    await short.accept()
    with pytest.raises(Unavailable):
        await short.accept()
    assert await wire.in_flight() == 2
    await redis.aclose()


async def test_a_cancelled_call_that_nobody_claimed_never_runs(wire: Wire) -> None:
    call = await wire.accept(request_id=b'"a"', seed=b'{"id":1}')
    assert await wire.calls.cancel(wire.owner, wire.session, b'"a"') == [call]
    assert await wire.claim(16) == []
    assert await wire.in_flight() == 0
    (event,) = await _audited(wire)
    assert event["outcome"] == b"cancelled"


async def test_the_answer_of_a_cancelled_call_is_not_sent(wire: Wire) -> None:
    await wire.accept(request_id=b"5")
    (claimed,) = await wire.claim()
    await wire.calls.cancel(wire.owner, wire.session, b"5")
    assert await wire.outbox.publish(claimed, b"{}", "ok") == 0
    assert await wire.outbox.notify(claimed, 1, b"{}") == 0
    assert await wire.sent() == []


async def test_cancelling_takes_only_the_named_request(wire: Wire) -> None:
    await wire.accept(request_id=b"1")
    await wire.accept(request_id=b'"1"')
    assert len(await wire.calls.cancel(wire.owner, wire.session, b"1")) == 1
    assert await wire.calls.cancel(wire.owner, wire.session, b"9") == []
    assert await wire.pending() == 1


async def test_a_call_past_its_deadline_is_answered_by_the_sweep(redis_settings: Settings, wire: Wire) -> None:
    redis = await Redis.connect(redis_settings.model_copy(update={"call_timeout": 0.0005}), "test")
    hasty = replace(wire, calls=Calls(redis))
    call = await hasty.accept(request_id=b'"x"', seed=b'{"id":2}')
    (claimed,) = await wire.claim()
    lane = redis.keys.lane_of(wire.owner.tenant)
    assert await wire.calls.sweep(lane, 0) == [call]
    ((offset, body),) = await wire.sent()
    answer = orjson.loads(body)
    assert (offset, answer["id"], answer["error"]["code"]) == (1, "x", -32001)
    assert await wire.calls.sweep(lane, 0) == []
    assert await wire.outbox.publish(claimed, b"{}", "ok") == 0
    assert await wire.in_flight() == 0
    (event,) = await _audited(wire)
    assert event["outcome"] == b"timeout"
    await redis.aclose()


async def test_what_a_dead_worker_left_beyond_any_deadline_leaves_the_lane(
    redis_settings: Settings, wire: Wire
) -> None:
    await wire.accept(request_id=b"")  # a notification: no deadline ever ends it
    assert len(await wire.claim()) == 1
    changes = {"call_timeout": 0.0005, "call_timeout_max": 0.0005}
    redis = await Redis.connect(redis_settings.model_copy(update=changes), "test")
    lane = redis.keys.tenant(wire.owner.tenant)
    await Calls(redis).sweep(lane.number, 0)
    assert await redis.command("XLEN", lane.calls) == 0
    await redis.aclose()


async def test_progress_moves_the_deadline_up_to_its_end(wire: Wire) -> None:
    await wire.accept()
    (claimed,) = await wire.claim()
    await wire.outbox.notify(claimed, 1, b"{}", extend_ms=600_000, latest_ms=claimed.enqueued_ms + 90_000)
    deadlines = wire.redis.keys.tenant(wire.owner.tenant).deadlines
    member = f"{wire.owner.tenant}:{wire.session}:{claimed.id}"
    assert int(await wire.redis.command("ZSCORE", deadlines, member)) == claimed.enqueued_ms + 90_000


async def test_an_answered_tool_call_leaves_one_audit_event(wire: Wire) -> None:
    await wire.accept(seed=b'["key_1"]')
    (claimed,) = await wire.claim()
    await wire.outbox.publish(claimed, b"{}", "tool_error", compute_us=340)
    await wire.outbox.publish(claimed, b"{}", "ok")
    (event,) = await _audited(wire)
    assert event["member"].decode() == f"{wire.owner.tenant}:{wire.session}:{claimed.id}"
    assert (event["outcome"], event["worker"], event["request_id"]) == (b"tool_error", b"w1", b"1")
    assert (event["compute"], event["answer"]) == (b"340", b"2")
    assert event["seed"] == b'["key_1"]'
    assert int(event["accepted"]) == claimed.enqueued_ms <= int(event["ended"])


async def test_calls_that_are_answered_together_share_an_entry_of_the_audit_stream(wire: Wire) -> None:
    for number in range(1, 71):
        await wire.accept(request_id=b"%d" % number, seed=b'["key_1"]')
    claimed = await wire.claim()
    while len(claimed) < 70:
        claimed += await wire.claim()
    await asyncio.gather(*(wire.outbox.publish(call, b"{}", "ok") for call in claimed))
    stream = wire.redis.keys.audit(wire.redis.keys.lane_of(wire.owner.tenant))
    assert await wire.redis.command("XLEN", stream) == 2, "at most 64 in one"
    events = await _audited(wire)
    assert sorted(int(event["request_id"]) for event in events) == list(range(1, 71))
    assert len({event["member"] for event in events}) == 70


async def test_events_that_wait_for_postgres_refuse_calls_by_their_number(wire: Wire) -> None:
    keys = wire.redis.keys
    bound = wire.redis.settings.audit_max_backlog
    await wire.redis.command("SET", keys.unwritten(keys.lane_of(wire.owner.tenant)), bound - 1)
    await wire.accept(seed=b'["key_1"]')
    (claimed,) = await wire.claim()
    await wire.outbox.publish(claimed, b"{}", "ok")
    with pytest.raises(AuditBacklogFull):
        await wire.accept()


async def _audited(wire: Wire) -> list[dict[str, bytes]]:
    feed = AuditFeed(wire.redis, "test")
    entries = await feed.read(100, 200)
    await feed.ack(entries)
    assert await feed.backlog() == 0
    await feed.aclose()
    lines = [line for entry in entries for line in entry.lines]
    names = ("member", "outcome", "compute", "answer", "worker", "ended", "accepted", "request_id", "seed")
    events = (lines[start : start + EVENT_LINES] for start in range(0, len(lines), EVENT_LINES))
    return [dict(zip(names, event, strict=True)) for event in events]


async def test_cancellations_count_against_the_rate_of_their_tenant(wire: Wire) -> None:
    bounds = Bounds.of(rate=0.001, burst=1, in_flight=10)
    await wire.calls.cancel(wire.owner, wire.session, b"1", bounds)
    with pytest.raises(TooManyRequests):
        await wire.calls.cancel(wire.owner, wire.session, b"1", bounds)


async def test_what_is_taken_back_is_told_to_all_even_if_the_reply_is_lost(wire: Wire) -> None:
    told: asyncio.Queue[Event | None] = asyncio.Queue()
    listener = await wire.redis.dial(
        "test", on_push=lambda reply: told.put_nowait(decode(reply[2])) if reply[0] == b"message" else None
    )
    listener.push("SUBSCRIBE", wire.redis.keys.control)
    one, two = await wire.accept(request_id=b"1"), await wire.accept(request_id=b"2")
    await wire.claim()
    await wire.calls.cancel(wire.owner, wire.session, b"1")
    await wire.sessions.close(wire.owner, wire.session)
    async with asyncio.timeout(10):
        assert [await told.get() for _ in range(2)] == [CallCancelled(call, wire.session) for call in (one, two)]
    listener.close()
    await listener.lost
