"""How far a client has come in one stream that can be resumed."""

from __future__ import annotations

from faults.ledger import Ledger
from faults.wire import Event

LOST = "lost"
"""Stands for the offset of an answer that a pod gives for a Redis that is gone; no stream is resumed from there."""


class Cursor:
    """The last event of a stream, and whether others are the next ones; anything else is booked.

    Args:
        ledger: Where to.
        session: Whose stream it is.
        start: The event id that it begins after; empty where the first event tells.
    """

    def __init__(self, ledger: Ledger, session: str, start: str = "") -> None:
        self.last_id = start
        """What to resume from; empty before anything came."""
        self.name, _, offset = start.rpartition(".")
        self.offset = int(offset or 0)
        self._ledger = ledger
        self._session = session

    def takes(self, event: Event) -> bool:
        """Whether an event has a message that is to be read."""
        name, _, offset = event.id.rpartition(".")
        if not self.name and name.partition(".")[0] == self._session:
            self.name = name
            self.offset = 0 if offset == LOST else int(offset) - bool(event.data)
        if name != self.name:
            self._ledger.breaks.append(f"an event of {name!r} came in {self.name or self._session!r}")
            return False
        if offset == LOST:
            return True
        if not event.data:
            return self._primed(event.id, int(offset))
        return self._moved(event.id, int(offset))

    def _primed(self, event_id: str, offset: int) -> bool:
        """The event without a message that a stream begins with, resumed or not (2025-11-25)."""
        if offset != self.offset:
            self._ledger.breaks.append(f"{event_id} was said to be the last, which was {self.offset}")
        self.last_id = event_id
        return False

    def _moved(self, event_id: str, offset: int) -> bool:
        if offset != self.offset + 1:
            self._ledger.breaks.append(f"event {offset} came after event {self.offset} of {self.name}")
            if offset <= self.offset:
                return False
        self.offset, self.last_id = offset, event_id
        return True
