"""Redis' clock, as a process that must not trust its own knows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.streams.client import Redis


class RedisClock:
    """Tells Redis' time between two readings of it by the monotonic clock, so that no step of ours matters.

    Before the first reading it tells our own time, as it was when it was made.
    """

    def __init__(self) -> None:
        self._offset_ms = (time.time() - time.monotonic()) * 1000

    async def read(self, redis: Redis) -> None:
        """Ask Redis for the time; half of the round trip is taken as the way back."""
        before = time.monotonic()
        seconds, microseconds = await redis.command("TIME")
        after = time.monotonic()
        self._offset_ms = int(seconds) * 1000 + int(microseconds) / 1000 - (before + after) * 500

    def now_ms(self) -> float:
        """Redis' time in epoch milliseconds, as good as the last reading."""
        return time.monotonic() * 1000 + self._offset_ms

    def now(self) -> float:
        """The same in epoch seconds."""
        return self.now_ms() / 1000
