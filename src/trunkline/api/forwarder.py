"""Station 6, forward: from the pod's channels to its streams; gaps are filled from the outbox.

Pub/sub may lose what it carries: when its connection breaks, or when a pod is slow. Offsets are contiguous, so a
missing message shows when the next one comes, when the subscription is back, and at the latest when the session is
renewed, every minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from trunkline.api.connections import KEEP_ALIVE, Connections, Stream
from trunkline.envelope import Delivery
from trunkline.errors import SessionNotFound, Unavailable
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.control import Event, decode
from trunkline.streams.sessions import Sessions
from trunkline.streams.subscriber import Subscriber

_RENEW_EVERY = 60.0
_MOST_RENEWALS = 64
"""Streams whose outboxes are looked at at once."""

log = structlog.get_logger(__name__)


class Forwarder:
    """Moves messages from Redis to this pod's streams, and keeps the streams alive."""

    def __init__(
        self,
        redis: Redis,
        pod: str,
        sessions: Sessions,
        connections: Connections,
        metrics: Metrics,
        on_event: Callable[[Event], None],
        on_ready: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._settings: Settings = redis.settings
        self._sessions = sessions
        self._connections = connections
        self._metrics = metrics
        self._on_event = on_event
        self._on_ready = on_ready
        self._control = redis.keys.control.encode()
        self._renewing = asyncio.Semaphore(_MOST_RENEWALS)
        self._tasks: set[asyncio.Task[None]] = set()
        channels = [redis.keys.control, *(redis.keys.pods(lane) + pod for lane in range(redis.keys.lanes))]
        self.subscriber = Subscriber(redis, channels, self._received, self._subscribed)

    async def run(self) -> None:
        """Forward until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.subscriber.run(), name="subscriber")
            group.create_task(self._keep_alive(), name="keep-alive")

    def _received(self, channel: bytes, payload: bytes) -> None:
        if channel == self._control:
            event = decode(payload)
            if event is not None:
                self._on_event(event)
            return
        delivery = Delivery.from_payload(payload)
        self._connections.hold(delivery)
        stream = self._connections.get(delivery.session)
        if stream is None or stream.generation != delivery.generation:
            return
        self._metrics.forward_total.inc()
        if stations.on:
            stations.log("forward", tenant=stream.slug, session=stream.session, offset=delivery.offset)
        self._forward(stream, delivery)

    def _forward(self, stream: Stream, delivery: Delivery) -> None:
        if stream.hold is not None and delivery.offset:
            stream.hold.append(delivery)
        elif not stream.take(delivery):
            self._renew_soon(stream)

    async def _subscribed(self) -> None:
        await self._on_ready()
        for stream in self._connections:
            self._renew_soon(stream)

    def _renew_soon(self, stream: Stream) -> None:
        if stream.hold is None:
            stream.hold = []
            task = asyncio.create_task(self._renew(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _renew(self, stream: Stream) -> None:
        """Renew the session's life and deliver what its outbox has that the stream has not."""
        held = stream.hold or []
        try:
            async with self._renewing:
                stream.touched = asyncio.get_running_loop().time()
                await self._fill(stream)
        except SessionNotFound:
            stream.end("session ended")
        except Unavailable:
            stream.touched = float("-inf")  # the next round tries again
        finally:
            stream.hold = None
        for delivery in held:
            if not stream.ended:
                self._forward(stream, delivery)

    async def _fill(self, stream: Stream) -> None:
        tenant = stream.owner.tenant
        newest = await self._sessions.touch(tenant, stream.session, stream.generation)
        if newest <= stream.last:
            return
        missed = await self._sessions.missed(tenant, stream.session, stream.last)
        if not missed or missed[0].offset != stream.last + 1:
            log.warning("messages lost", session=stream.session, after=stream.last, newest=newest)
            await self._sessions.close(stream.owner, stream.session)
            stream.end("messages lost")
            return
        self._metrics.forward_gaps_total.inc()
        stream.deliver_missed(missed)

    async def _keep_alive(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(1.0)
            now, today = clock(), time.time()
            quiet_since = now - self._settings.keepalive_interval + 1.0
            for stream in self._connections:
                if stream.expires_at <= today:
                    stream.end("key expired")
                if stream.wrote < quiet_since:
                    stream.write(KEEP_ALIVE)
                if stream.touched < now - _RENEW_EVERY:
                    self._renew_soon(stream)
