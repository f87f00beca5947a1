"""Whether replicas have what was done: WAIT, for all that was sent before (docs/decisions/0019-sentinel-and-wait.md).

WAIT holds up what comes behind it on its connection. So there is one at a time on each, for all who wait by then, and
it asks for a tenth of a second: while replicas are away, other commands get through between two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from trunkline.errors import Unavailable
from trunkline.streams.connection import Connection, RedisRefusal, Reply

_SLICE_MS = 100

UNKNOWN = object()
"""Stands for the reply of a script of which it is not known whether it ran."""


class NotConfirmed(Unavailable):
    """Redis has too few replicas that keep up; try again shortly."""

    def __init__(self, reply: Reply = UNKNOWN) -> None:
        super().__init__(retry_after=1)
        self.reply = reply
        """What the script returned, which ran; or UNKNOWN."""


class Confirmations:
    """Those of one connection."""

    def __init__(self, connection: Connection, count: int, channel: str) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._count = count
        self._channel = channel
        self._joined: list[asyncio.Future[bool]] = []
        self._scheduled = False
        """Whether a WAIT is about to be sent, or was and is not answered."""

    def join(self) -> asyncio.Future[bool]:
        """Wait for all that is sent on the connection in this turn of the event loop, and was before.

        Called before a command is sent, it makes no write of its own. The future gives True once enough replicas have
        it, False if the connection is lost first; it may be cancelled.
        """
        joined: asyncio.Future[bool] = self._loop.create_future()
        self._joined.append(joined)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)
        return joined

    def _send(self) -> None:
        waiting = [joined for joined in self._joined if not joined.done()]
        self._joined = []
        self._scheduled = bool(waiting)
        if waiting:
            # WAIT looks at what this connection wrote last. A message to nobody is a write, and makes it look at all.
            self._connection.send("PUBLISH", self._channel, "").add_done_callback(_ignore)
            answer = self._connection.send("WAIT", self._count, _SLICE_MS)
            answer.add_done_callback(partial(self._answered, waiting))

    def _answered(self, waiting: Sequence[asyncio.Future[bool]], answer: asyncio.Future[Reply]) -> None:
        failure = answer.exception()
        if failure is None and answer.result() < self._count:
            self._joined[:0] = waiting
        else:
            for joined in waiting:
                if not joined.done():
                    joined.set_result(failure is None)
        if isinstance(failure, RedisRefusal):  # it is a replica by now
            self._connection.close()
        self._send()


def _ignore(answer: asyncio.Future[Reply]) -> None:
    answer.exception()


class Replicas:
    """How many must have what was done, and for how long that is waited for."""

    def __init__(self, count: int, seconds: float, channel: str) -> None:
        self._count = count
        self._channel = channel
        self._of: dict[Connection, Confirmations] = {}
        self.seconds = seconds
        """After which who has patience at all has none left."""

    def on(self, connection: Connection) -> Confirmations:
        """The confirmations of a connection."""
        found = self._of.get(connection)
        if found is None:
            self._of = {each: its for each, its in self._of.items() if not each.lost.done()}
            found = self._of[connection] = Confirmations(connection, self._count, self._channel)
        return found
