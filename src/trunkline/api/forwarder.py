"""Station 6, forward: from the pod's channels to its streams; gaps are filled from the outbox.

Pub/sub may lose what it carries: when its connection breaks, or when a pod is slow. Offsets are contiguous, so a
missing message shows when the next one comes, when the subscription is back, and at the latest when the session is
renewed, every minute. What a stream has missed is read in pages, and the next one when its client has read the one
before; meanwhile its live messages are held, or left to the outbox.

A session of which Redis knows nothing any more, a gap that no outbox fills, and a call that is overdue while Redis is
away end the stream: what is pending is answered with an error before, for nobody else could.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from trunkline.api.confirmed import Confirmed
from trunkline.api.connections import Connections
from trunkline.api.events import KEEP_ALIVE, MESSAGES_LOST, REDIS_LOST, REPLACED, SESSION_ENDED
from trunkline.api.expiry import SOON, Expiries
from trunkline.api.stream import Stream
from trunkline.envelope import TELLS_OF_ACCEPTED, Accepted, Delivery
from trunkline.errors import SessionNotFound, Unavailable
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.control import CallCancelled, Event, decode
from trunkline.streams.sessions import Sent, Sessions, Touched
from trunkline.streams.subscriber import Subscriber

_RENEW_EVERY = 60.0
_RENEW_SPREAD = 10.0
"""Seconds over which renewals are spread that would otherwise all come at once, a minute after Redis was back."""
_MOST_FILLS = 32
"""Outboxes that are read at once, each a page of up to half of STREAM_BUFFER_BYTES, or one message."""
_FILL_PATIENCE = 5.0
"""Seconds that a stream waits for its outbox to be read before it tries anew."""
_TURN = 64
"""Streams of which the renewal is begun in one turn of the event loop."""

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
        self._redis = redis
        self._settings: Settings = redis.settings
        self._sessions = sessions
        self._connections = connections
        connections.catch_up = self._renew_soon
        self._metrics = metrics
        self._on_event = on_event
        self._on_ready = on_ready
        self._control = redis.keys.control.encode()
        self._filling = asyncio.Semaphore(_MOST_FILLS)
        self._clock = asyncio.get_running_loop().time
        self._redis_clock = redis.clock
        self._expiries = Expiries(redis.clock.now)
        self._tasks: set[asyncio.Task[None]] = set()
        channels = [redis.keys.control, *(redis.keys.pods(lane) + pod for lane in range(redis.keys.lanes))]
        self.subscriber = Subscriber(redis, channels, self._received, self._subscribed)
        self._confirmed: Confirmed | None = None
        if redis.replicas is not None:
            self._confirmed = Confirmed(redis, redis.replicas, self._forward_confirmed, self._look_at_all)

    async def run(self) -> None:
        """Forward until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.subscriber.run(), name="subscriber")
            group.create_task(self._keep_alive(), name="keep-alive")
            group.create_task(self._expiries.run(), name="expiries")
            if self._confirmed is not None:
                group.create_task(self._confirmed.run(), name="confirmed")

    def _received(self, channel: bytes, payload: bytes) -> None:
        if self._confirmed is None:
            self._forward(channel, payload)
            return
        if channel == self._control:
            self._forward(channel, payload)
        if self.subscriber.connection is not None:
            self._confirmed.put(self.subscriber.connection, channel, payload)

    def _forward(self, channel: bytes, payload: bytes) -> None:
        if channel == self._control:
            event = decode(payload)
            if event is not None:
                self._on_event(event)
        elif payload[0] == TELLS_OF_ACCEPTED:
            for accepted in Accepted.from_payload(payload):
                self._expect(accepted)
        else:
            published, deliveries = Delivery.from_payload(payload)
            if published:
                self._metrics.forward_seconds.observe((self._redis_clock.now_ms() - published) / 1000)
            for delivery in deliveries:
                self._deliver(delivery)

    def _forward_confirmed(self, channel: bytes, payload: bytes) -> None:
        """Events were heeded at once; but that a call was taken back must be heard behind its acceptance, too."""
        if channel != self._control or isinstance(decode(payload), CallCancelled):
            self._forward(channel, payload)

    def _look_at_all(self) -> None:
        for stream in self._connections.streams():
            self._renew_soon(stream)

    def _deliver(self, delivery: Delivery) -> None:
        self._connections.hold(delivery)
        stream = self._connections.get(delivery.stream)
        if stream is None or stream.generation != delivery.generation:
            return
        self._metrics.forward_total.inc()
        if stations.on:
            stations.log("forward", tenant=stream.slug, session=stream.name, offset=delivery.offset)
        if stream.hold is not None and delivery.offset:
            stream.keep(delivery)
        elif not stream.take(delivery):
            self._renew_soon(stream)

    def _expect(self, accepted: Accepted) -> None:
        self._connections.hold(accepted)
        stream = self._connections.get(accepted.session)
        if stream is None:
            return
        if stream.hold is None:
            stream.expect(accepted)
        else:
            stream.keep(accepted)

    async def _subscribed(self) -> None:
        for number, stream in enumerate(self._connections.streams(), 1):
            self._renew_soon(stream)
            if number % _TURN == 0:
                await asyncio.sleep(0)
        await self._on_ready()

    def _renew_soon(self, stream: Stream) -> None:
        if not stream.known:  # looked at when it is
            stream.suspect()
        elif stream.hold is None and self._holds(stream):
            stream.hold_back()
            task = asyncio.create_task(self._renew(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _holds(self, stream: Stream) -> bool:
        """Whether a stream is open still, and its client there."""
        return not stream.ended and self._connections.get(stream.name) is stream

    async def _renew(self, stream: Stream) -> None:
        """Renew the session's life and deliver what its outbox has that the stream has not."""
        reason, away = "", False
        try:
            stream.touched = self._clock() - random.uniform(0, _RENEW_SPREAD)  # noqa: S311 - jitter
            reason = await self._fill(stream)
        except SessionNotFound:
            reason = SESSION_ENDED
        except Unavailable:
            stream.touched, away = float("-inf"), True  # the next round tries again
            if stream.overdue(self._clock()):
                reason = REDIS_LOST
        finally:
            stream.release()
        if reason:
            self._lose(stream, reason)
        elif stream.behind and not away:  # something else was lost on its way meanwhile
            self._renew_soon(stream)
        if reason == MESSAGES_LOST and stream.owner.transport != "lone" and stream.name == stream.session:
            with contextlib.suppress(SessionNotFound, Unavailable):  # without it, a resume finds the same gap
                await self._sessions.close(stream.owner, stream.session)

    async def _fill(self, stream: Stream) -> str:
        """Bring a stream up to date, no faster than its client reads; returns why it must end, if it must."""
        filled = False
        while True:
            if stream.behind:
                await stream.ready()
            if not self._holds(stream):
                return ""
            known = stream.newest
            found = await self._sessions.touch(stream.owner.tenant, stream.name, stream.generation)
            if found is None:
                stream.end(REPLACED)
                return ""
            # A Redis that has lost its last moments has the last word, unless something came since it was asked.
            stream.newest = found.newest if stream.newest == known else max(stream.newest, found.newest)
            missed = await self._missed(stream) if found.newest > stream.last else []
            if not self._complete(stream, found, missed):
                stream.recall(found.pending, found.newest)
                return MESSAGES_LOST
            if missed and not filled:
                filled = True
                self._metrics.forward_gaps_total.inc()
            stream.catch_up(found.pending, missed)
            if not stream.behind:
                return ""

    def _complete(self, stream: Stream, found: Touched, missed: Sequence[Sent]) -> bool:
        """Whether the outbox goes on where the stream is, and Redis knows of all that is pending or was answered."""
        if found.newest < stream.last:
            return False
        if found.newest > stream.last and (not missed or missed[0].offset != stream.last + 1):
            return False
        return not (stream.contradicted(found.pending, missed) or stream.doubt(found.pending, missed))

    async def _missed(self, stream: Stream) -> Sequence[Sent]:
        """Read the next page of what the outbox has beyond the stream.

        Raises:
            Unavailable: Redis is away, or so many outboxes are read that it takes too long.
        """
        try:
            async with asyncio.timeout(_FILL_PATIENCE), self._filling:
                return await self._sessions.missed(stream.owner.tenant, stream.name, stream.last)
        except TimeoutError:
            raise Unavailable from None

    def _lose(self, stream: Stream, reason: str) -> None:
        answered = stream.lose(reason)
        log.warning("stream lost", reason=reason, stream=stream.name, after=stream.last, answered=answered)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now, soon = self._clock(), self._redis_clock.now() + SOON
            quiet_since = now - self._settings.keepalive_interval + 1.0
            for stream in self._connections:
                if stream.expires_at <= soon:
                    self._expiries.watch(stream)
                if stream.wrote < quiet_since:
                    stream.write(KEEP_ALIVE)
                if isinstance(stream, Stream) and (stream.touched < now - _RENEW_EVERY or stream.overdue(now)):
                    self._renew_soon(stream)
