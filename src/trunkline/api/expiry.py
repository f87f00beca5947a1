"""The end of streams whose key expires, to a quarter of a second.

Who walks all streams anyway, once a second, says which expire soon; these few are then looked at more often. Most of
what is open are POSTs that are answered long before their key expires, so nothing is kept for each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from trunkline.api.events import KEY_EXPIRED, EventStream

SOON = 3.0
"""Seconds before its expiry from which on a stream is watched: more than two walks take."""
_LOOK_EVERY = 0.25


class Expiries:
    """The streams of this pod that expire soon."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._soon: set[EventStream] = set()

    def watch(self, stream: EventStream) -> None:
        """End a stream when its key expires, which is soon, or was."""
        self._soon.add(stream)

    def look(self) -> None:
        """End what is due, by the time that keys expire by."""
        now = self._clock()
        for stream in list(self._soon):
            if stream.expires_at <= now:
                stream.end(KEY_EXPIRED)
            if stream.ended:
                self._soon.discard(stream)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self.look()
