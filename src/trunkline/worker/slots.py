"""Which of the claimed calls run and which wait: a worker's slots, shared fairly among the tenants that want them."""

from __future__ import annotations

from collections import OrderedDict, deque

from trunkline.envelope import Call
from trunkline.streams.lost import MOST_ATTEMPTS

_LAST = "suspects"
"""Where a tenant's id would stand: calls that were lost with two workers share one slot at first."""


class Slots:
    """A worker's slots.

    Guarantees: never more calls begin than there are slots; a tenant holds at most three quarters of them, rounded
    up, so that one that sends slow calls leaves some free for the others; of the calls that were lost with two
    workers one begins at a time; what is claimed beyond waits, and whenever a slot is free, it goes to the waiting
    tenants in turn.

    A call that waits for its client, perhaps minutes for a human, lends its slot, so that dialogs left open stop
    nobody else; at most as many calls do so as there are slots, and of a tenant as many as it may hold. One more
    keeps its slot until another's client has answered. Then that goes on at once, be all slots taken or not. (For its
    tenant it stays one of those in flight, of which there are never more in the lane
    and running than all workers have slots.)
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._cap = -(-concurrency * 3 // 4)
        self._running: dict[str, Call] = {}
        self._lent: dict[str, Call] = {}
        """Those that wait for their clients and hold no slot."""
        self._lenders: dict[str, int] = {}
        """The same by tenant."""
        self._asking: dict[str, None] = {}
        """Those that wait for their clients and hold a slot that they could not lend yet; the longest first."""
        self._held: dict[str, int] = {}
        """Slots by tenant."""
        self._waiting: OrderedDict[str, deque[Call]] = OrderedDict()
        """By tenant; whose turn is next stands first."""
        self._ids: set[str] = set()
        self._closed = False
        self._ended = False

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._ids

    @property
    def wanted(self) -> int:
        """How many calls hold a slot or wait for one; those that wait for their clients and lent theirs do not."""
        return len(self._ids) - len(self._lent)

    @property
    def claimable(self) -> int:
        """How many calls may be claimed now; none while as many wait as there are slots."""
        if self._closed:
            return 0
        waiting = self.wanted - len(self._running)
        return max(self._concurrency - max(len(self._running), waiting), 0)

    def admit(self, call: Call) -> bool:
        """Give a claimed call a slot, or have it wait; whether it may begin."""
        self._ids.add(call.id)
        group = _group(call)
        if not self._closed and len(self._running) < self._concurrency and self._may(group):
            self._take(call)
            return True
        self._waiting.setdefault(group, deque()).append(call)
        return False

    def release(self, call: Call) -> list[Call]:
        """A call has ended; which of those that wait may begin now."""
        self._ids.discard(call.id)
        self._asking.pop(call.id, None)
        if self._return(call) is None:
            _subtract(self._held, _group(self._running.pop(call.id)))
        return self._fill()

    def lend(self, call: Call) -> list[Call]:
        """A call waits for its client; which of those that wait may begin in its slot."""
        if call.id in self._running:
            self._asking[call.id] = None
        return self._fill()

    def take_back(self, call: Call) -> list[Call]:
        """It goes on; which of those that wait may begin, now that another may lend its slot."""
        self._asking.pop(call.id, None)
        lent = self._return(call)
        if lent is not None:
            self._take(lent)
        return self._fill()

    def trust(self, call: Call) -> list[Call]:
        """A call has shown that it does not end its worker at once; which of those that wait may begin now."""
        running = self._running.get(call.id)
        if running is not None and _group(running) == _LAST:
            _subtract(self._held, _LAST)
            self._running[call.id] = running._replace(attempt=1)
            _add(self._held, running.tenant)
        return self._fill()

    def close(self) -> None:
        """Have nothing begin until `open`."""
        self._closed = True

    def open(self) -> list[Call]:
        """Have calls begin again; which of those that wait may."""
        self._closed = self._ended
        return self._fill()

    def end(self) -> None:
        """Have nothing begin any more."""
        self._closed = self._ended = True

    def renew(self, call: Call) -> list[Call]:
        """Take over a newer attempt of a call that waits here; which of those that wait may begin now."""
        if self.withdraw(call.id) is not None:
            self._ids.add(call.id)
            self._waiting.setdefault(_group(call), deque()).append(call)
        return self._fill()

    def withdraw(self, call_id: str) -> Call | None:
        """Take a call from those that wait; None if it does not."""
        for group, calls in self._waiting.items():
            for call in calls:
                if call.id == call_id:
                    calls.remove(call)
                    if not calls:
                        del self._waiting[group]
                    self._ids.discard(call_id)
                    return call
        return None

    def empty(self) -> list[Call]:
        """Take all that wait."""
        waiting = [call for calls in self._waiting.values() for call in calls]
        self._waiting.clear()
        self._ids.difference_update(call.id for call in waiting)
        return waiting

    def _may(self, group: str) -> bool:
        return self._held.get(group, 0) < (1 if group == _LAST else self._cap)

    def _take(self, call: Call) -> None:
        self._running[call.id] = call
        _add(self._held, _group(call))

    def _return(self, call: Call) -> Call | None:
        lent = self._lent.pop(call.id, None)
        if lent is not None:
            _subtract(self._lenders, lent.tenant)
        return lent

    def _lend_all(self) -> None:
        for call in [self._running[call_id] for call_id in self._asking]:
            group = _group(call)
            if group != _LAST and len(self._lent) < self._concurrency and self._lenders.get(group, 0) < self._cap:
                del self._asking[call.id]
                self._lent[call.id] = self._running.pop(call.id)
                _add(self._lenders, group)
                _subtract(self._held, group)

    def _fill(self) -> list[Call]:
        begun: list[Call] = []
        if not self._asking and not self._waiting:
            return begun
        self._lend_all()
        while not self._closed and len(self._running) < self._concurrency and (following := self._next()) is not None:
            self._take(following)
            begun.append(following)
        return begun

    def _next(self) -> Call | None:
        for group, calls in self._waiting.items():
            if self._may(group):
                call = calls.popleft()
                if calls:
                    self._waiting.move_to_end(group)
                else:
                    del self._waiting[group]
                return call
        return None


def _group(call: Call) -> str:
    return call.tenant if call.attempt < MOST_ATTEMPTS else _LAST


def _add(counts: dict[str, int], group: str) -> None:
    counts[group] = counts.get(group, 0) + 1


def _subtract(counts: dict[str, int], group: str) -> None:
    left = counts[group] - 1
    if left:
        counts[group] = left
    else:
        del counts[group]
