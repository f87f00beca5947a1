"""What a stream must not deliver yet, since messages before it are being read: bounded."""

from __future__ import annotations

from trunkline.envelope import Accepted, Delivery
from trunkline.settings import Settings

_OVERHEAD = 100
"""Bytes by which an event is larger than its message, at most."""


class Hold:
    """What came for a session whose earlier messages are being read.

    Its messages are within half of what is kept for a slow reader: together with a page of the outbox, they make no
    reader slow.
    """

    __slots__ = ("_bytes", "_messages", "arrived")

    def __init__(self, settings: Settings) -> None:
        self.arrived: list[Delivery | Accepted] = []
        """In the order of arrival."""
        self._bytes = settings.stream_buffer_bytes // 2
        self._messages = settings.stream_buffer_messages // 2

    def keep(self, delivery: Delivery) -> bool:
        """Keep a message, unless there is no room for it."""
        size = len(delivery.body) + _OVERHEAD
        if self._messages < 1 or self._bytes < size:
            return False
        self._messages -= 1
        self._bytes -= size
        self.arrived.append(delivery)
        return True
