"""What becomes of the calls of a worker that is lost, and that it cannot answer them any more."""

from __future__ import annotations

import orjson
import pytest
from tests.integration.streams.conftest import Wire

from trunkline.envelope import Call
from trunkline.streams.attempts import Attempts, Verdict
from trunkline.streams.lost import LostWorkers, Reclaimed, parked_calls
from trunkline.streams.workers import first_beat, signs_of_life

WORKER = "w1"


async def reclaim(wire: Wire, suspect: str = "") -> list[Reclaimed]:
    lane = wire.redis.keys.lane_of(wire.owner.tenant)
    return await LostWorkers(wire.redis).reclaim(lane, {WORKER: suspect.encode()})


async def claimed(wire: Wire, body: bytes = b'{"id":1}') -> Call:
    await wire.accept(body, seed=b'["key_1","once"]')
    (call,) = await wire.claim()
    return call


async def answers(wire: Wire) -> list[dict[str, object]]:
    return [orjson.loads(body) for _, body in await wire.sent()]


async def test_a_call_that_was_never_started_is_run_elsewhere(wire: Wire) -> None:
    call = await claimed(wire)
    assert await reclaim(wire) == [Reclaimed(call.id, "again")]
    (again,) = await wire.claim()
    assert (again.id, again.body, again.attempt) == (call.id, call.body, 2)
    assert again.entry != call.entry
    assert await wire.outbox.publish(again, b'{"answer":2}', "ok") == 1


async def test_the_lost_worker_cannot_answer_it_any_more(wire: Wire) -> None:
    call = await claimed(wire)
    await reclaim(wire)
    assert await wire.outbox.publish(call, b'{"answer":1}', "ok") == 0
    assert await Attempts(wire.redis, WORKER).start(call, repeatable=False) is Verdict.NOT_OURS
    assert await wire.sent() == []
    assert await wire.pending() == 1


async def test_one_that_was_started_and_may_not_be_repeated_is_answered_as_unknown(wire: Wire) -> None:
    call = await claimed(wire)
    assert await Attempts(wire.redis, WORKER).start(call, repeatable=False) is Verdict.GO
    assert await reclaim(wire) == [Reclaimed(call.id, "unknown")]
    (answer,) = await answers(wire)
    assert answer["id"] == 1
    assert answer["error"]["data"] == {"outcome": "unknown"}  # type: ignore[index]
    assert await wire.outbox.publish(call, b'{"answer":1}', "ok") == 0
    assert (await wire.pending(), await wire.in_flight()) == (0, 0)
    keys = wire.redis.keys
    lane = keys.lane_of(wire.owner.tenant)
    assert await wire.redis.command("XLEN", keys.calls(lane)) == 0
    (event,) = await wire.redis.command("XRANGE", keys.audit(lane), "-", "+")
    assert event[1][1].split(b"\n")[1] == b"unknown"


async def test_only_one_of_those_who_ask_begins_an_attempt(wire: Wire) -> None:
    call = await claimed(wire)
    assert await Attempts(wire.redis, WORKER).start(call, repeatable=False) is Verdict.GO
    assert await Attempts(wire.redis, "worker-b").start(call, repeatable=False) is Verdict.NOT_OURS
    assert await Attempts(wire.redis, WORKER).start(call, repeatable=False) is Verdict.NOT_OURS


async def test_a_call_that_was_answered_is_not_begun(wire: Wire) -> None:
    call = await claimed(wire)
    await wire.outbox.publish(call, b"{}", "ok")
    assert await Attempts(wire.redis, WORKER).start(call, repeatable=False) is Verdict.GONE


async def test_a_call_that_cost_three_workers_is_set_aside(wire: Wire) -> None:
    await wire.accept(b'{"id":1}', seed=b'["key_1","deadly"]')
    fates = []
    for attempt in (1, 2, 3):
        (call,) = await wire.claim()
        assert call.attempt == attempt
        if attempt > 1:
            assert await Attempts(wire.redis, WORKER).start(call, repeatable=True) is Verdict.GO
        fates += [fate for _, fate in await reclaim(wire, call.id)]
    assert fates == ["again", "again", "parked"]
    (answer,) = await answers(wire)
    assert answer["error"]["data"] == {"outcome": "parked"}  # type: ignore[index]
    (parked,) = await parked_calls(wire.redis)
    assert (parked.id, parked.tenant, parked.tool) == (call.id, wire.owner.tenant, "deadly")
    assert parked.workers == (WORKER,) * 3
    assert await wire.claim() == []


async def test_a_call_that_costs_workers_without_being_found_out_is_set_aside_after_twice_as_many(wire: Wire) -> None:
    await wire.accept(b'{"id":1}')
    fates = []
    for _ in range(6):
        (call,) = await wire.claim()
        if call.attempt > 1:
            assert await Attempts(wire.redis, WORKER).start(call, repeatable=True) is Verdict.GO
        fates += [fate for _, fate in await reclaim(wire)]
    assert fates == ["again"] * 5 + ["parked"]


async def test_a_later_attempt_that_was_never_begun_does_not_count(wire: Wire) -> None:
    await claimed(wire)
    for _ in range(5):
        await reclaim(wire)
        (call,) = await wire.claim()
        assert call.attempt == 2
    assert await wire.outbox.publish(call, b"{}", "ok") == 1


async def test_a_call_that_ran_beside_one_on_its_last_attempt_is_not_set_aside_for_it(wire: Wire) -> None:
    attempts = Attempts(wire.redis, WORKER)
    guilty, innocent = await wire.accept(request_id=b"1"), await wire.accept(request_id=b"2")
    fates = []
    for _ in range(3):
        for call in await wire.claim():
            if call.attempt > 1:
                assert await attempts.start(call, repeatable=True) is Verdict.GO
        fates += await reclaim(wire, guilty)
    assert Reclaimed(guilty, "parked") in fates
    (call,) = await wire.claim()
    assert (call.id, call.attempt) == (innocent, 4)


async def test_what_was_answered_or_cancelled_meanwhile_is_dropped(wire: Wire) -> None:
    await claimed(wire)
    await wire.calls.cancel(wire.owner, wire.session, b"1")
    assert await reclaim(wire) == []
    assert await wire.claim() == []
    assert await wire.sent() == []


async def test_a_notification_is_taken_up_by_another_worker(wire: Wire) -> None:
    await wire.accept(b'{"method":"notifications/initialized"}', request_id=b"")
    (first,) = await wire.claim()
    await reclaim(wire)
    (second,) = await wire.claim()
    assert (second.id, second.attempt, second.wants_answer) == (first.id, 2, False)


async def test_a_lost_worker_leaves_the_group_once_it_holds_nothing(wire: Wire) -> None:
    await claimed(wire)
    await reclaim(wire)
    lane = wire.redis.keys.lane_of(wire.owner.tenant)
    consumers = await wire.redis.command("XINFO", "CONSUMERS", wire.redis.keys.calls(lane), "workers")
    assert consumers == []


async def test_progress_that_moved_the_deadline_moves_that_of_the_next_attempt(wire: Wire) -> None:
    call = await claimed(wire)
    await wire.outbox.notify(call, 1, b"{}", 120_000, call.enqueued_ms + 600_000)
    await reclaim(wire)
    (again,) = await wire.claim()
    assert again.deadline_ms > call.deadline_ms + 50_000


@pytest.mark.parametrize("started", [False, True])
async def test_a_worker_that_stops_hands_back_what_it_has_not_finished(wire: Wire, started: bool) -> None:
    call = await claimed(wire)
    attempts = Attempts(wire.redis, WORKER)
    if started:
        await attempts.start(call, repeatable=True)
    assert await attempts.hand_back([call], begun=started) == 1
    assert await attempts.hand_back([call], begun=started) == 0
    (again,) = await wire.claim()
    assert (again.id, again.attempt) == (call.id, 2 if started else 1)
    assert await attempts.start(again, repeatable=False) is Verdict.GO


async def test_what_is_handed_back_after_it_was_answered_stays_answered(wire: Wire) -> None:
    call = await claimed(wire)
    await wire.outbox.publish(call, b"{}", "ok")
    assert await Attempts(wire.redis, WORKER).hand_back([call], begun=False) == 0
    assert await wire.claim() == []


async def test_the_lanes_are_told_how_many_calls_run_at_once(wire: Wire) -> None:
    await first_beat(wire.redis, "worker-a", 5)
    await first_beat(wire.redis, "worker-b", 7)
    assert {worker: slots for worker, (_, slots) in (await signs_of_life(wire.redis)).items()} == {
        "worker-a": 5, "worker-b": 7,
    }  # fmt: skip
    assert await LostWorkers(wire.redis).look() == []
    for lane in range(wire.redis.keys.lanes):
        assert await wire.redis.command("GET", wire.redis.keys.slots(lane)) == b"12"


async def slots(wire: Wire, number: int) -> None:
    lane = wire.redis.keys.lane_of(wire.owner.tenant)
    await wire.redis.command("SET", wire.redis.keys.slots(lane), number)


async def test_what_a_tenant_sends_beyond_the_slots_waits_outside_the_lane_and_comes_in_order(wire: Wire) -> None:
    await slots(wire, 2)
    sent = [await wire.accept(b"{}", request_id=str(number).encode()) for number in range(5)]
    done = []
    for _ in range(5):
        call, *more = await wire.claim()
        assert len(more) <= 1
        done.append(call.id)
        for each in (call, *more):
            assert await wire.outbox.publish(each, b"{}", "ok")
        done += [each.id for each in more]
        if len(done) == 5:
            break
    assert done == sent
    assert await wire.in_flight() == 0


async def test_a_waiting_call_can_be_cancelled_and_is_swept(wire: Wire) -> None:
    await slots(wire, 1)
    first = await wire.accept(request_id=b"1")
    await wire.accept(request_id=b"2")
    third = await wire.accept(request_id=b"3")
    assert len(await wire.calls.cancel(wire.owner, wire.session, b"2")) == 1
    (call,) = await wire.claim()
    assert call.id == first
    await wire.outbox.publish(call, b"{}", "ok")
    (call,) = await wire.claim()
    assert call.id == third
    await wire.accept(request_id=b"4")
    lane = wire.redis.keys.lane_of(wire.owner.tenant)
    assert len(await wire.calls.sweep(lane, -60_000)) == 2
    assert await wire.claim() == []
    assert (await wire.pending(), await wire.in_flight()) == (0, 0)
    assert await wire.redis.command("XLEN", f"{wire.redis.keys.tenant(wire.owner.tenant).base}surplus") == 0


async def test_another_tenant_of_the_lane_does_not_wait_behind_a_surplus(wire: Wire) -> None:
    await slots(wire, 2)
    for number in range(10):
        await wire.accept(request_id=str(number).encode())
    lane = wire.redis.keys.calls(wire.redis.keys.lane_of(wire.owner.tenant))
    assert await wire.redis.command("XLEN", lane) == 2


async def test_a_surplus_moves_when_there_are_more_slots(wire: Wire) -> None:
    await slots(wire, 1)
    for number in range(4):
        await wire.accept(request_id=str(number).encode())
    assert len(await wire.claim()) == 1
    await slots(wire, 3)
    await wire.calls.sweep(wire.redis.keys.lane_of(wire.owner.tenant), 0)
    assert len(await wire.claim()) == 2
    await slots(wire, 9)
    await wire.calls.sweep(wire.redis.keys.lane_of(wire.owner.tenant), 0)
    assert len(await wire.claim()) == 1
    assert await wire.redis.command("SCARD", f"{wire.redis.keys.tenant(wire.owner.tenant).lane}surplus") == 0


async def test_progress_of_an_attempt_that_was_given_up_is_not_sent_and_moves_no_deadline(wire: Wire) -> None:
    call = await claimed(wire)
    await reclaim(wire)
    deadline = await wire.redis.command("ZRANGE", wire.redis.keys.tenant(call.tenant).deadlines, 0, 0, "WITHSCORES")
    assert await wire.outbox.notify(call, 1, b"{}", 240_000, call.enqueued_ms + 600_000) == 0
    assert deadline == await wire.redis.command(
        "ZRANGE", wire.redis.keys.tenant(call.tenant).deadlines, 0, 0, "WITHSCORES"
    )
    (again,) = await wire.claim()
    assert await wire.outbox.notify(again, 1, b"{}") == 1


async def test_closing_a_session_takes_its_surplus_along(wire: Wire) -> None:
    await slots(wire, 2)
    for number in range(30):
        await wire.accept(request_id=str(number).encode())
    assert len(await wire.sessions.close(wire.owner, wire.session)) == 30
    assert await wire.claim() == []
    assert await wire.in_flight() == 0
    lane = wire.redis.keys.tenant(wire.owner.tenant)
    await wire.calls.sweep(lane.number, 0)
    assert await wire.redis.command("EXISTS", f"{lane.base}surplus", f"{lane.lane}surplus") == 0


async def test_more_than_one_batch_of_a_lost_workers_calls_is_looked_after_at_once(wire: Wire) -> None:
    for number in range(300):
        await wire.accept(b'{"method":"notifications/x"}', request_id=b"" if number < 260 else b"1")
    claimed = 0
    while claimed < 300:
        claimed += len(await wire.claim())
    assert len(await reclaim(wire)) == 40
