"""Listening: a subscription that comes back by itself and says when it may have missed something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from trunkline.streams.client import Redis
from trunkline.streams.connection import Connection, ConnectionLost, Reply

_PING_EVERY = 2.0
_SILENCE = 6.0
"""Seconds without a sign of life after which the connection is given up."""
_DIAL_PATIENCE = 2.0
"""Seconds that Redis has to answer a new connection: where packets vanish, the next attempt is not far."""


class Subscriber:
    """Delivers what is published to some channels.

    Guarantee: after every (re)connection `on_ready` is awaited once the channels are subscribed. Whatever was
    published before may have been missed; what is published after reaches `on_message`, in order, until the
    connection breaks again.
    """

    def __init__(
        self,
        redis: Redis,
        channels: Sequence[str],
        on_message: Callable[[bytes, bytes], None],
        on_ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._redis = redis
        self._channels = channels
        self._on_message = on_message
        self._on_ready = on_ready
        self._missing = 0
        self._subscribed = asyncio.Event()
        self.live = False
        """Whether the subscription stands."""
        self.connection: Connection | None = None
        """The one over which messages come, or came last."""

    async def run(self) -> None:
        """Listen until cancelled."""
        pause = 0.05
        while True:
            try:
                await self._listen()
                pause = 0.05
            except (ConnectionLost, TimeoutError):
                pause = min(pause * 2, 0.5)
            self.live = False
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        connection = await self._redis.dial("subscriber", on_push=self._pushed, timeout=_DIAL_PATIENCE)
        self.connection = connection
        try:
            self._missing = len(self._channels)
            self._subscribed.clear()
            connection.push("SUBSCRIBE", *self._channels)
            async with asyncio.timeout(_DIAL_PATIENCE):
                await self._subscribed.wait()
            self.live = True
            await self._on_ready()
            await self._keep(connection)
        finally:
            connection.close()

    async def _keep(self, connection: Connection) -> None:
        while not connection.lost.done():
            if connection.now() - connection.heard > _SILENCE:
                return
            connection.push("PING")
            await asyncio.wait([connection.lost], timeout=_PING_EVERY)

    def _pushed(self, reply: Reply) -> None:
        match reply:
            case [b"message", channel, payload]:
                self._on_message(channel, payload)
            case [b"subscribe", *_]:
                self._missing -= 1
                if self._missing == 0:
                    self._subscribed.set()
