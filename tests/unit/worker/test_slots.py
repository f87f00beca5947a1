"""A worker's slots: how many calls run, whose turn is next, and that no tenant takes them all."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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


def test_what_waits_for_a_slot_is_wanted_too_and_what_lent_its_own_is_not() -> None:
    slots = Slots(8)
    for number in range(10):
        slots.admit(call("a", number))
    assert slots.wanted == 10
    slots.lend(call("a", 0))
    assert slots.wanted == 9
    slots.release(call("a", 0))
    assert slots.wanted == 9
    slots.withdraw("a-9")
    assert slots.wanted == 8


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
    assert slots.take_back(first) == []
    assert slots.take_back(first) == []
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


def test_as_many_calls_lend_their_slots_as_there_are_and_the_next_as_soon_as_one_goes_on() -> None:
    slots = Slots(2)
    asking = [call("a", 0), call("a", 1), call("b", 2)]
    for each in asking[:2]:
        assert slots.admit(each)
        assert slots.lend(each) == []
        assert slots.claimable == 2
    assert slots.admit(asking[2])
    slots.lend(asking[2])
    assert slots.claimable == 1
    assert slots.admit(call("c", 3))
    assert not slots.admit(call("c", 4))
    assert slots.take_back(asking[0]) == [], "which it does itself, in the slot that another lends"
    assert slots.claimable == 0
    assert slots.release(asking[1]) == []
    assert slots.release(call("c", 3)) == [call("c", 4)]


def test_a_tenant_whose_calls_all_wait_for_clients_leaves_others_room_to_lend() -> None:
    slots = Slots(4)
    for number in range(4):
        assert slots.admit(call("a", number))
        slots.lend(call("a", number))
    assert slots.claimable == 3, "the fourth keeps its slot"
    assert slots.admit(call("b"))
    slots.lend(call("b"))
    assert slots.claimable == 3
    assert slots.release(call("a", 1)) == []
    assert slots.claimable == 4, "now the fourth lends its own"


def test_a_suspect_lends_its_slot_once_it_is_trusted() -> None:
    slots = Slots(1)
    suspect = call("a")._replace(attempt=3)
    assert slots.admit(suspect)
    assert slots.lend(suspect) == []
    assert not slots.admit(call("b"))
    assert slots.trust(suspect) == [call("b")]
    assert slots.take_back(suspect) == []
    assert slots.release(suspect) == []
    assert slots.release(call("b")) == []
    assert slots.claimable == 1


def test_a_call_that_goes_on_before_it_could_lend_keeps_its_slot() -> None:
    slots = Slots(1)
    assert slots.admit(call("a", 0))
    slots.lend(call("a", 0))
    assert slots.admit(call("a", 1))
    slots.lend(call("a", 1))
    assert slots.take_back(call("a", 1)) == []
    assert slots.release(call("a", 0)) == []
    assert slots.claimable == 0


def test_a_waiting_call_that_becomes_a_suspect_takes_a_slot_that_is_free_for_one() -> None:
    slots = Slots(4)
    for number in range(3):
        assert slots.admit(call("a", number))
    assert not slots.admit(call("a", 3))
    suspect = call("a", 3)._replace(attempt=3)
    assert slots.renew(suspect) == [suspect]


class Model(RuleBasedStateMachine):
    """What a worker does with its slots, and what must hold meanwhile."""

    @initialize(concurrency=st.integers(1, 9))
    def start(self, concurrency: int) -> None:
        self.concurrency, self.cap = concurrency, -(-concurrency * 3 // 4)
        self.slots = Slots(concurrency)
        self.holding: dict[str, Call] = {}
        """Those that run and were not lent, as far as can be told from outside."""
        self.asking: dict[str, Call] = {}
        self.waiting: dict[str, Call] = {}
        self.number = 0

    def begin(self, calls: list[Call]) -> None:
        for each in calls:
            assert self.waiting.pop(each.id) == each
            self.holding[each.id] = each
        if calls:
            assert len(self.slots._running) <= self.concurrency, "what begins finds a free slot"
            for each in calls:
                assert self.held(group(each)) <= (1 if group(each) == "" else self.cap)

    def held(self, of: str) -> int:
        return sum(group(each) == of for each in self.slots._running.values())

    def pick(self, data: st.DataObject, calls: dict[str, Call]) -> Call | None:
        return calls[data.draw(st.sampled_from(sorted(calls)))] if calls else None

    @rule(tenant=st.sampled_from("abc"), attempt=st.sampled_from([1, 1, 1, 3]))
    def admit(self, tenant: str, attempt: int) -> None:
        self.number += 1
        new = call(tenant, self.number)._replace(attempt=attempt)
        self.waiting[new.id] = new
        if self.slots.admit(new):
            self.begin([new])

    @rule(data=st.data())
    def lend(self, data: st.DataObject) -> None:
        if (one := self.pick(data, self.holding)) is not None:
            self.asking[one.id] = one
            self.begin(self.slots.lend(one))

    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        if (one := self.pick(data, self.asking)) is not None:
            del self.asking[one.id]
            self.begin(self.slots.take_back(one))
            assert one.id in self.slots._running, "it goes on at once"

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if (one := self.pick(data, self.holding)) is not None:
            del self.holding[one.id]
            self.asking.pop(one.id, None)
            self.begin(self.slots.release(one))
            assert one.id not in self.slots

    @rule(data=st.data())
    def trust(self, data: st.DataObject) -> None:
        suspects = {each.id: each for each in self.holding.values() if each.attempt >= 3}
        if (one := self.pick(data, suspects)) is not None:
            self.holding[one.id] = one._replace(attempt=1)
            self.begin(self.slots.trust(one))

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        if (one := self.pick(data, self.waiting)) is not None:
            self.waiting[one.id] = newer = one._replace(attempt=one.attempt + 1)
            self.begin(self.slots.renew(newer))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if (one := self.pick(data, self.waiting)) is not None:
            assert self.slots.withdraw(self.waiting.pop(one.id).id) == one

    @invariant()
    def nothing_is_idle_while_someone_may_use_it(self) -> None:
        if len(self.slots._running) < self.concurrency:
            for each in self.waiting.values():
                assert self.held(group(each)) >= (1 if group(each) == "" else self.cap)

    @invariant()
    def as_many_lend_as_may(self) -> None:
        lent = self.slots._lent.values()
        assert {each.id for each in lent} <= set(self.asking)
        assert len(lent) <= self.concurrency
        by_tenant = {tenant: sum(each.tenant == tenant for each in lent) for tenant in "abc"}
        assert max(by_tenant.values()) <= self.cap
        for each in self.asking.values():
            if each.id in self.slots._running and group(self.holding[each.id]) and len(lent) < self.concurrency:
                assert by_tenant[each.tenant] == self.cap

    @invariant()
    def none_is_forgotten(self) -> None:
        assert all(each in self.slots for each in (*self.holding, *self.waiting))
        assert set(self.slots._running) | set(self.slots._lent) == set(self.holding)
        assert self.slots._held == Counter(group(each) or "suspects" for each in self.slots._running.values())


def group(one: Call) -> str:
    """Whose slots a call takes: a tenant's, or the one of suspects."""
    return one.tenant if one.attempt < 3 else ""


TestWhateverAWorkerDoes = Model.TestCase
TestWhateverAWorkerDoes.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)
