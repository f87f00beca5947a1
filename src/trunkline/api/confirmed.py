"""What came for streams and may not be delivered yet: replicas are to have it before a client sees it.

Otherwise a replica that takes over might know nothing of an answer that was read, give its offset to another one, and
have the call run again; or nothing of a call that this pod waits for, and then answers as lost though it was refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from trunkline.streams.client import Redis
from trunkline.streams.connection import Connection
from trunkline.streams.replicas import Replicas

_MOST_HELD = 16 * 1024 * 1024
"""Bytes that wait here; what is more is in outboxes, and read from there."""


class Confirmed:
    """Hands on what was published to a pod's channels, in order, once replicas have it.

    What came from a server that is not ours any more is dropped: the subscription, made anew, has every stream look
    at its outbox. So does `missed`, where too much had to wait.
    """

    def __init__(
        self,
        redis: Redis,
        replicas: Replicas,
        deliver: Callable[[bytes, bytes], None],
        missed: Callable[[], object],
    ) -> None:
        self._redis = redis
        self._replicas = replicas
        self._deliver = deliver
        self._missed = missed
        self._waiting: list[tuple[Connection, bytes, bytes]] = []
        self._held = 0
        self._arrived = asyncio.Event()

    def put(self, source: Connection, channel: bytes, payload: bytes) -> None:
        """Have a payload delivered that came over `source`."""
        self._held += len(payload)
        if self._held > _MOST_HELD:
            self._waiting = self._waiting[:1]
        else:
            self._waiting.append((source, channel, payload))
        self._arrived.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            waiting, held = self._waiting, self._held
            self._waiting, self._held = [], 0
            newest = waiting[-1][0]
            if await self._redis.reached(self._replicas, newest):
                for source, channel, payload in waiting:
                    if source is newest:
                        self._deliver(channel, payload)
                if held > _MOST_HELD:
                    self._missed()
