"""A worker's slots: how many calls run, whose turn is next, and that no tenant takes them all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.envelope import Call
from trunkline.worker.slots import Slots


def call(tenant: str, number: int = 0) -> Call:
    return Call(f"{tenant}-{number}", tenant, "s", b"", b"", b"", 1, 2, 0, b"1-1")


def test_a_tenant_leaves_a_quarter_of_the_slots_to_others() -> None:
    slots = Slots(8)
    begun = [slots.admit(call("a", number)) for number in range(8)]
    assert begun == [True] * 6 + [False] * 2
    assert slots.claimable == 2
    assert slots.admit(call("b"))


def test_a_worker_of_one_slot_serves_one_tenant_at_a_time() -> None:
    slots = Slots(1)
    assert slots.admit(call("a"))
    assert slots.claimable == 0


def test_a_freed_slot_goes_to_the_tenants_in_turn() -> None:
    slots = Slots(4)
    for tenant in ("a", "b"):
        for number in range(2):
            assert slots.admit(call(tenant, number))
    for number in range(2, 4):
        assert not slots.admit(call("a", number))
    assert not slots.admit(call("b", 2))
    order = [slots.release(call("a", 0)), slots.release(call("a", 1)), slots.release(call("b", 0))]
    assert [following.id for each in order for following in each] == ["a-2", "b-2", "a-3"]


def test_calls_of_a_capped_tenant_do_not_keep_the_worker_from_claiming_until_its_room_is_full() -> None:
    slots = Slots(4)
    for number in range(3):
        assert slots.admit(call("a", number))
    waiting = 0
    while slots.claimable:
        assert not slots.admit(call("a", 3 + waiting))
        waiting += 1
    assert waiting == 4


def test_a_waiting_call_can_be_withdrawn_and_all_of_them_emptied() -> None:
    slots = Slots(1)
    slots.admit(call("a"))
    for number in range(1, 4):
        slots.admit(call("b", number))
    assert slots.withdraw("b-2") == call("b", 2)
    assert slots.withdraw("b-2") is None
    assert "b-2" not in slots
    assert slots.empty() == [call("b", 1), call("b", 3)]
    assert slots.release(call("a")) == []


def test_a_waiting_call_that_is_given_out_again_is_run_as_its_newest_attempt() -> None:
    slots = Slots(1)
    slots.admit(call("a"))
    slots.admit(call("b", 1))
    newer = call("b", 1)._replace(entry=b"2-1", attempt=2)
    slots.renew(newer)
    slots.renew(call("a"))
    assert slots.release(call("a")) == [newer]


def test_of_the_calls_that_were_lost_with_two_workers_one_begins_at_a_time_whoever_sent_it() -> None:
    slots = Slots(8)
    first, second = call("a", 1)._replace(attempt=3), call("b", 2)._replace(attempt=3)
    assert slots.admit(first)
    assert not slots.admit(second)
    assert slots.admit(call("b", 3))
    assert slots.release(first) == [second]
    assert not slots.admit(call("c", 4)._replace(attempt=4))
    assert slots.trust(second) == [call("c", 4)._replace(attempt=4)]
    assert slots.release(second) == []


def test_nothing_begins_while_the_slots_are_closed() -> None:
    slots = Slots(2)
    assert slots.admit(call("a", 1))
    slots.close()
    assert not slots.admit(call("b", 2))
    assert slots.claimable == 0
    assert slots.release(call("a", 1)) == []
    assert slots.open() == [call("b", 2)]


def test_nothing_begins_after_the_end() -> None:
    slots = Slots(2)
    assert slots.admit(call("a", 1))
    slots.end()
    assert not slots.admit(call("b", 2))
    assert slots.open() == []
    assert slots.claimable == 0


def test_a_call_that_waits_for_its_client_lends_its_slot_and_goes_on_though_all_are_taken() -> None:
    slots = Slots(2)
    first, second, third = (call(tenant) for tenant in "abc")
    assert slots.admit(first)
    assert slots.admit(second)
    assert not slots.admit(third)
    assert slots.lend(first) == [third]
    assert slots.lend(first) == []
    assert slots.claimable == 0
    slots.take_back(first)
    slots.take_back(first)
    assert slots.claimable == 0
    waiting = call("d")
    assert not slots.admit(waiting)
    assert slots.release(second) == []
    assert slots.release(third) == [waiting]
    assert slots.release(first) == []
    assert slots.claimable == 1


def test_a_tenant_whose_calls_wait_for_clients_goes_on_itself() -> None:
    slots = Slots(4)
    asking = [call("a", number) for number in range(3)]
    assert all(slots.admit(each) for each in asking)
    assert not slots.admit(call("a", 3))
    assert slots.lend(asking[0]) == [call("a", 3)]
    assert not slots.admit(call("a", 4))


def test_a_call_that_ends_while_it_waits_for_its_client_gives_back_no_slot_twice() -> None:
    slots = Slots(1)
    assert slots.admit(call("a"))
    assert slots.lend(call("a")) == []
    assert slots.claimable == 1
    assert slots.admit(call("b"))
    assert slots.release(call("a")) == []
    assert "a-0" not in slots
    assert not slots.admit(call("c"))


def test_as_many_calls_lend_their_slots_as_there_are_and_none_that_is_suspected() -> None:
    slots = Slots(2)
    for number in range(2):
        assert slots.admit(call("a", number))
        slots.lend(call("a", number))
        assert slots.claimable == 2
    assert slots.admit(call("b"))
    slots.lend(call("b"))
    assert slots.claimable == 1
    suspect = call("c")._replace(attempt=3)
    assert slots.admit(suspect)
    slots.take_back(call("a", 0))
    assert slots.lend(suspect) == []
    assert slots.claimable == 0


@given(st.integers(1, 9), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_slots_are_never_overfilled_and_never_idle_while_someone_may_use_them(
    concurrency: int, steps: list[tuple[str, bool]]
) -> None:
    slots, cap = Slots(concurrency), -(-concurrency * 3 // 4)
    running: list[Call] = []
    waiting: list[Call] = []
    for number, (tenant, ends) in enumerate(steps):
        if ends and running:
            following = slots.release(running.pop(0))
            running += following
            waiting = [each for each in waiting if each not in following]
        else:
            new = call(tenant, number)
            (running if slots.admit(new) else waiting).append(new)
        held = {name: sum(each.tenant == name for each in running) for name in "abc"}
        assert len(running) <= concurrency
        assert max(held.values()) <= cap
        if len(running) < concurrency:
            assert all(held[each.tenant] == cap for each in waiting)
        assert all(each.id in slots for each in (*running, *waiting))
