"""Which of the claimed calls run and which wait: a worker's slots, shared fairly among the tenants that want them."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from trunkline.envelope import Call

_ROOM = 4
"""How many times as many calls as there are slots may wait here before the worker claims nothing more."""


class Slots:
    """A worker's slots.

    Guarantees: never more calls run than there are slots; a tenant holds at most three quarters of them (rounded up),
    so that one that sends slow calls leaves some free for the others; what is claimed beyond waits, and whenever a
    slot is free, it goes to the waiting tenants in turn.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._cap = -(-concurrency * 3 // 4)
        self._running: dict[str, Call] = {}
        self._held: Counter[str] = Counter()
        """Slots by tenant."""
        self._waiting: OrderedDict[str, deque[Call]] = OrderedDict()
        """By tenant; whose turn is next stands first."""
        self._room = concurrency * _ROOM
        self._ids: set[str] = set()

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._ids

    @property
    def claimable(self) -> int:
        """How many calls may be claimed now."""
        return max(min(self._concurrency - len(self._running), self._room + len(self._running) - len(self._ids)), 0)

    def admit(self, call: Call) -> bool:
        """Give a claimed call a slot, or have it wait; whether it may begin."""
        self._ids.add(call.id)
        if len(self._running) < self._concurrency and self._held[call.tenant] < self._cap:
            self._take(call)
            return True
        self._waiting.setdefault(call.tenant, deque()).append(call)
        return False

    def release(self, call: Call) -> list[Call]:
        """A call has ended; which of those that wait may begin now."""
        del self._running[call.id]
        self._ids.discard(call.id)
        self._held[call.tenant] -= 1
        if not self._held[call.tenant]:
            del self._held[call.tenant]
        begun = []
        while len(self._running) < self._concurrency and (following := self._next()) is not None:
            self._take(following)
            begun.append(following)
        return begun

    def renew(self, call: Call) -> bool:
        """Take over a newer attempt of a call that waits here; False if it does not wait."""
        for calls in self._waiting.values():
            for place, waiting in enumerate(calls):
                if waiting.id == call.id:
                    calls[place] = call
                    return True
        return False

    def withdraw(self, call_id: str) -> Call | None:
        """Take a call from those that wait; None if it does not."""
        for tenant, calls in self._waiting.items():
            for call in calls:
                if call.id == call_id:
                    calls.remove(call)
                    if not calls:
                        del self._waiting[tenant]
                    self._ids.discard(call_id)
                    return call
        return None

    def empty(self) -> list[Call]:
        """Take all that wait."""
        waiting = [call for calls in self._waiting.values() for call in calls]
        self._waiting.clear()
        self._ids.difference_update(call.id for call in waiting)
        return waiting

    def _take(self, call: Call) -> None:
        self._running[call.id] = call
        self._held[call.tenant] += 1

    def _next(self) -> Call | None:
        for tenant, calls in self._waiting.items():
            if self._held[tenant] < self._cap:
                call = calls.popleft()
                if calls:
                    self._waiting.move_to_end(tenant)
                else:
                    del self._waiting[tenant]
                return call
        return None
