"""The API process: what it is made of, and the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import signal
import socket
from typing import Any, cast

import structlog
import uvicorn
import uvloop

from trunkline import __version__
from trunkline.api.accept import Acceptor
from trunkline.api.app import App, ControlPlane
from trunkline.api.auth import Authenticator
from trunkline.api.connection import Protocol
from trunkline.api.connections import Connections
from trunkline.api.forwarder import Forwarder
from trunkline.api.health import Health
from trunkline.api.heard import Heard
from trunkline.api.listen import Listeners
from trunkline.api.server import Server
from trunkline.api.sse import SseTransport
from trunkline.api.stateless import StatelessTransport
from trunkline.api.streamable import StreamableTransport
from trunkline.api.streaming import Streaming
from trunkline.audit.signing import CheckpointSigner
from trunkline.audit.tail import Tail
from trunkline.db import Database
from trunkline.errors import StartRefused, Unavailable
from trunkline.logs import configure, default_pod
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.calls import Calls
from trunkline.streams.changes import Changes
from trunkline.streams.client import Redis
from trunkline.streams.control import CallCancelled, Event
from trunkline.streams.custodian import Custodian
from trunkline.streams.revocations import Revocations
from trunkline.streams.sessions import Sessions
from trunkline.streams.snapshots import Snapshots
from trunkline.streams.watch import Watch
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.last_use import LastUse
from trunkline.tenants.passwords import Passwords
from trunkline.tenants.quotas import QuotaSeeder
from trunkline.tenants.signing import Keyring
from trunkline.tenants.unsettled import Unsettled
from trunkline.tenants.verify import Verifier
from trunkline.tracing import Tracing

_START_PATIENCE = 15.0
_REFRESH_EVERY = 30.0
_LOOK_EVERY = 2.0
_SWEEP_GRACE_MS = 4_000
"""How long after its deadline a call is left to the workers, which sweep as well."""
_GIVE_UP_AFTER = 0.9
"""The share of DRAIN_TIMEOUT after which what is held still is answered with an error, while there is time to."""
_LAST_CALL = 0.5
"""Seconds that who connected before the port was closed has to send a request."""
_SEND_BUFFER = 131_072
"""Bytes that the kernel takes for a client that does not read (Linux takes twice of what it is told)."""
_KEEP_ALIVE = 75
"""Seconds an idle client connection is kept: longer than the proxies in front keep theirs (60 s in most)."""

log = structlog.get_logger(__name__)


def serve(settings: Settings, host: str, port: int) -> None:
    """Run one API pod until SIGTERM or SIGINT; a second signal ends it at once.

    Raises:
        StartRefused: the address cannot be had.
    """
    configure(settings, "api")
    listener = listen(host, port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(ApiProcess(settings, default_pod()), listener))


async def _run(process: ApiProcess, listener: socket.socket) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, process.stop)
    await process.run(listener)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        StartRefused: the address is in use or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it. The kernel would else hold 2 to 4 MB for each reader that does not read, before
    # any bound of ours begins.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    try:
        listener.bind((host, port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise StartRefused(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error
    listener.setblocking(False)
    return listener


class ApiProcess:
    """One API pod."""

    def __init__(self, settings: Settings, pod: str, *, fast_passwords: bool = False) -> None:
        self._fast_passwords = fast_passwords
        self._passwords: Passwords | None = None
        self._settings = settings
        self._pod = pod
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.ready = asyncio.Event()
        """Set when this pod serves and hears what is published for it."""
        self._starting: asyncio.Task[Any] | None = None
        self._tails: Tail | None = None
        self._tracing: Tracing | None = None
        signing = settings.root.get_secret_value()
        self._auditor = CheckpointSigner(settings.root).jwks() if signing else []

    async def run(self, listener: socket.socket) -> None:
        """Serve until `stop`."""
        self._starting = asyncio.current_task()
        try:
            await self._run(listener)
        except asyncio.CancelledError:
            if self._starting is None or not self._stop.is_set():
                raise
            log.info("stopped")  # nobody has been served yet

    async def _run(self, listener: socket.socket) -> None:
        redis = await Redis.connect(self._settings, "api", patience=_START_PATIENCE)
        database = Database(self._settings.database_url, process="api")
        try:
            await self._compose(redis, database)
            self._starting = None
            await self._serve(listener)
        finally:
            if self._passwords is not None:
                self._passwords.close()
            self._metrics.close()
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)
            await database.aclose()
            await redis.aclose()

    def stop(self) -> None:
        """Drain and end; called again, or before this pod serves, end without waiting for anything."""
        if self._starting is not None:
            self._starting.cancel()
        elif self._stop.is_set():
            self._server.force_exit = True
            self._hurry.set()
        self._stop.set()

    async def _compose(self, redis: Redis, database: Database) -> None:
        settings = self._settings
        self._redis = redis
        self._metrics = Metrics("api", __version__)
        self._tracing = Tracing.of(settings, "api", self._pod)
        if settings.metrics_port:
            self._metrics.serve(settings.metrics_port)
        self._connections = Connections()
        snapshots = Snapshots(redis)
        self._directory = TenantDirectory(database, snapshots, settings)
        self._keyring = Keyring(snapshots, database)
        self._verifier = Verifier(settings, self._keyring, Revocations(redis), database, redis.clock.now)
        self._custodian = Custodian(redis, self._metrics, every=_LOOK_EVERY, grace_ms=_SWEEP_GRACE_MS)
        self._watch = Watch(redis, database.ping, self._metrics, lanes=True)
        sessions = Sessions(redis, self._pod)
        self._last_use = LastUse(database, redis.clock.now)
        authenticator = Authenticator(self._directory, self._verifier, settings, self._last_use.note)
        self._unsettled = Unsettled(settings, database, redis)
        calls = Calls(redis)
        self._vanished = calls.vanished
        self._quotas = QuotaSeeder(redis, database, settings.root)
        acceptor = Acceptor(redis, self._pod, sessions, calls, self._metrics, self._quotas, self._tracing)
        streaming = Streaming(settings, authenticator, sessions, self._connections, self._metrics)
        listeners = Listeners(streaming, self._connections)
        sse = SseTransport(authenticator, sessions, self._connections, streaming, acceptor, self._metrics)
        streamable = StreamableTransport(
            self._pod, authenticator, self._connections, streaming, acceptor, self._metrics
        )
        stateless = StatelessTransport(self._pod, authenticator, streaming, acceptor, calls, listeners)
        self._health = Health(redis, database.ping, self._metrics, self._jwks, self._pod)
        self._heard = Heard(
            self._connections, listeners, Changes(redis), self._directory, self._verifier, self._refresh
        )
        self._forwarder = Forwarder(
            redis,
            self._pod,
            sessions,
            self._connections,
            self._metrics,
            self._event,
            self._listening_again,
            self._tracing,
        )
        self._health.listening = lambda: self._forwarder.subscriber.live
        self._streaming, self._listeners = streaming, listeners
        control = self._control(database) if settings.control else None
        app = App(settings, sse, streamable, stateless, self._health, self._metrics, control)
        self._server = Server(
            uvicorn.Config(
                cast("Any", app),  # that of our own protocol, not an ASGI application
                http=Protocol,
                loop="none",
                ws="none",
                lifespan="off",
                proxy_headers=False,
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(settings.drain_timeout),
            )
        )

    def _control(self, database: Database) -> ControlPlane:
        """What answers `/v1`; imported by now or never: it takes the loop's time, and memory for good."""
        from trunkline.api.control.app import ControlPlane as Plane
        from trunkline.api.control.deps import Control

        self._passwords = Passwords(fast=self._fast_passwords)
        control = Control.make(
            self._settings,
            database,
            self._redis,
            self._directory,
            self._verifier,
            self._metrics,
            self._passwords,
            self._last_use.note,
        )
        self._tails = control.tail
        return Plane(control)

    def _jwks(self) -> dict[str, list[dict[str, str]]]:
        """What API keys are verified with, and what the audit log's checkpoints are."""
        return {"keys": [*self._keyring.jwks()["keys"], *self._auditor]}

    async def _serve(self, listener: socket.socket) -> None:
        serving = asyncio.create_task(self._server.serve([listener]), name="server")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        side: list[asyncio.Task[Any]] = [
            stopping,
            asyncio.create_task(self._forwarder.run(), name="forwarder"),
            asyncio.create_task(self._keep_fresh(), name="refresh"),
            asyncio.create_task(self._custodian.run(), name="custodian"),
            asyncio.create_task(self._drop_slow_clients(), name="slow clients"),
            asyncio.create_task(self._last_use.run(), name="last use"),
            asyncio.create_task(self._watch.run(), name="watch"),
            asyncio.create_task(self._vanished.run(), name="vanished"),
        ]
        # What start-up made is never garbage, and a batch of calls makes more than the usual 700 objects: 4 % of CPU.
        gc.freeze()
        gc.set_threshold(10_000)
        log.info("listening", address=listener.getsockname()[:2])
        try:
            # A side task never ends by itself: if one does, the pod cannot do its work and ends with its error.
            await asyncio.wait({serving, *side}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(serving, listener)
        finally:
            for task in side:
                task.cancel()
            outcomes = await asyncio.gather(serving, *side, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _drain(self, serving: asyncio.Task[None], listener: socket.socket) -> None:
        """Stop, in an order in which no request fails.

        1. `/readyz` answers 503, so that proxies choose other pods.
        2. Every response says `Connection: close`, so that nobody sends another request on its connection.
        3. Streams end with a `retry:`, each another, and resume elsewhere; new ones get 503 with `Retry-After`.
        4. The port stays open for DRAIN_DELAY: who has not noticed yet is answered as ever, POSTs are accepted.
        5. The port is closed; who had connected by then is answered.
        6. What is under way finishes, within DRAIN_TIMEOUT, or is answered with an error; then the process ends.

        A second signal skips what is left. So does, but for the requests under way, the end of a side task.
        """
        log.info("draining", streams=int(self._metrics.active_connections.value))
        delay = self._settings.drain_delay if self._stop.is_set() else 0.0
        self._health.draining = True
        self._server.close_after_responses()
        self._streaming.drain()
        if self._tails is not None:
            self._tails.drain()
        await self._pause(serving, delay)
        await self._server.stop_listening(listener, self._hurry)
        await self._pause(serving, min(delay, _LAST_CALL))
        self._server.should_exit = True
        giving_up = asyncio.get_running_loop().call_later(
            self._settings.drain_timeout * _GIVE_UP_AFTER, self._streaming.give_up
        )
        await asyncio.wait({serving})
        giving_up.cancel()
        log.info("stopped")

    async def _pause(self, serving: asyncio.Task[None], seconds: float) -> None:
        """Wait, unless somebody is in a hurry."""
        if seconds:
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait({serving, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()

    def _event(self, event: Event) -> None:
        if isinstance(event, CallCancelled):
            self._vanished.forget(event.call_id)
        self._heard.event(event)

    async def _listening_again(self) -> None:
        self._listeners.missed()
        self._vanished.look()
        await self._refresh()

    async def _refresh(self) -> None:
        """Learn what may have been missed while this pod could not listen."""
        self._directory.forget_all()
        await self._freshen()
        self.ready.set()

    async def _drop_slow_clients(self) -> None:
        """Hang up on clients that take their time over a request, be it refused already, and on idle ones."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(1.0)
            head, body = clock() - self._settings.head_timeout, clock() - self._settings.body_timeout - 1.0
            idle = clock() - _KEEP_ALIVE
            for protocol in list(self._server.server_state.connections):
                if not isinstance(protocol, Protocol):
                    continue
                if protocol.stalls(clock(), self._settings.stream_write_timeout):
                    self._metrics.slow_readers_total.inc()
                    protocol.transport.abort()
                elif protocol.keeps_up and (protocol.idle_since or math.inf) < idle:
                    protocol.transport.close()
                elif (protocol.head_since or math.inf) < head or (protocol.body_since or math.inf) < body:
                    protocol.transport.abort()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_EVERY)
            await self._freshen()

    async def _freshen(self) -> None:
        with contextlib.suppress(Unavailable):
            await self._redis.clock.read(self._redis)
        with contextlib.suppress(Unavailable):  # what was known stays
            await self._verifier.refresh()
        self._heard.look_again()
        with contextlib.suppress(Unavailable):
            await self._unsettled.settle()
