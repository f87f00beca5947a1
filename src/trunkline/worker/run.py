"""The worker process: what it is made of, and the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import sys
import threading
from functools import partial
from typing import Any

import anyio.to_thread
import structlog
import uvloop

from trunkline import __version__
from trunkline.audit.anchors import Anchors
from trunkline.audit.retention import Retention
from trunkline.audit.signing import HeadSealer
from trunkline.audit.write import AuditWriter
from trunkline.db import Database
from trunkline.errors import Unavailable
from trunkline.logs import configure, default_pod
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.audit import AuditFeed
from trunkline.streams.client import Redis
from trunkline.streams.control import CallCancelled, Event, TenantChanged, decode
from trunkline.streams.custodian import Custodian
from trunkline.streams.snapshots import Snapshots
from trunkline.streams.subscriber import Subscriber
from trunkline.streams.watch import Watch
from trunkline.streams.workers import Pulse, first_beat
from trunkline.tenants.config_reader import ConfigReader
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.hosted import HostedToolset, keep_announcing
from trunkline.tenants.idempotency import keep_forgetting
from trunkline.toolsets.catalog import Catalog, gather
from trunkline.toolsets.configurable import schema_of
from trunkline.toolsets.hosted import Toolset
from trunkline.tracing import Tracing
from trunkline.worker.consumer import Consumer
from trunkline.worker.executor import Executor

_START_PATIENCE = 15.0
_LOOK_EVERY = 1.0
_SWEEP_GRACE_MS = 2_000
"""How long after its deadline a call is left to the worker that runs it."""

log = structlog.get_logger(__name__)


def work(settings: Settings) -> None:
    """Run one worker pod until SIGTERM or SIGINT; a second signal ends it at once.

    Raises:
        StartRefused: a server to host cannot be loaded.
    """
    configure(settings, "worker")
    catalog = Catalog(gather(settings.servers), secret=settings.root)
    # A restarted container has the name and process id of the one before, whose calls must not look like ours.
    worker = f"{default_pod()}-{secrets.token_hex(3)}"
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(WorkerProcess(settings, worker, catalog)))
    finally:
        _leave_threads(failed=sys.exc_info()[0] is not None)


def _leave_threads(*, failed: bool) -> None:
    """End the process where the thread of a blocking tool would hold it: Python waits for threads, without bound."""
    threads = [each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]
    for thread in threads:
        thread.join(timeout=0.5)
    left = sum(thread.is_alive() for thread in threads)
    if left:
        log.warning("ended beside blocking tools", threads=left)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(failed))


async def _run(process: WorkerProcess) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, process.stop)
    await process.run()


class WorkerProcess:
    """One worker pod."""

    def __init__(self, settings: Settings, worker: str, catalog: Catalog) -> None:
        self._settings = settings
        self._worker = worker
        self._catalog = catalog
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        """Set when this worker claims calls and hears of cancellations."""
        self._main: asyncio.Task[Any] | None = None
        self._tracing: Tracing | None = None

    async def run(self) -> None:
        """Work until `stop`."""
        self._main = asyncio.current_task()
        # A blocking tool that waits for its client holds its thread, while its slot is lent to another.
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2 * self._settings.concurrency
        redis = await Redis.connect(self._settings, "worker", patience=_START_PATIENCE)
        database = Database(self._settings.database_url, process="worker")
        pulse = Pulse(self._settings, self._worker)
        try:
            async with self._catalog:
                await self._compose(redis, database)
                await first_beat(redis, self._worker, self._settings.concurrency)
                pulse.start()
                await self._custodian.look()
                await self._work()
        finally:
            await asyncio.to_thread(pulse.stop)  # it waits for Redis
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)
            await database.aclose()
            await redis.aclose()

    def stop(self) -> None:
        """Drain and end; called again, end without waiting for what runs."""
        if self._stop.is_set() and self._main is not None:
            self._main.cancel()
        self._stop.set()

    async def _compose(self, redis: Redis, database: Database) -> None:
        self._metrics = Metrics("worker", __version__)
        self._tracing = Tracing.of(self._settings, "worker", self._worker)
        if self._tracing is not None:
            self._tracing.serve_tools()
        if self._settings.metrics_port:
            self._metrics.serve(self._settings.metrics_port)
        self._directory = TenantDirectory(database, Snapshots(redis), self._settings)
        configs = ConfigReader(self._settings, database, redis, self._catalog.models)
        executor = Executor(self._catalog)
        self._consumer = Consumer(
            redis, self._worker, executor, self._directory, configs, self._metrics, self._tracing
        )
        self._database = database
        self._tell_hosted = partial(keep_announcing, database, [_hosted(each) for each in self._catalog.toolsets])
        self._custodian = Custodian(redis, self._metrics, every=_LOOK_EVERY, grace_ms=_SWEEP_GRACE_MS)
        self._watch = Watch(redis, database.ping, self._metrics, lanes=False)
        self._clients = self._consumer.clients
        self._catalog.listen(self._clients.announcements.heard)
        self._control = redis.keys.control.encode()
        channels = [redis.keys.control, *self._clients.questions.channels]
        self._subscriber = Subscriber(redis, channels, self._received, self._subscribed)
        self._feed = AuditFeed(redis, self._worker)
        anchors = Anchors(redis, HeadSealer(self._settings.root))
        self._writer = AuditWriter(self._feed, database, self._metrics, self._settings.root, grew=anchors.grew)
        self._retention = Retention(self._settings, database, redis)

    async def _work(self) -> None:
        consuming = asyncio.create_task(self._consumer.run(), name="consumer")
        side = [
            asyncio.create_task(self._writer.run(), name="audit"),
            asyncio.create_task(self._retention.run(), name="retention"),
            asyncio.create_task(self._subscriber.run(), name="subscriber"),
            asyncio.create_task(self._consumer.watch_deadlines(), name="deadlines"),
            asyncio.create_task(self._consumer.keep_clock(), name="clock"),
            asyncio.create_task(self._custodian.run(), name="custodian"),
            asyncio.create_task(self._watch.run(), name="watch"),
            asyncio.create_task(self._tell_hosted(), name="hosted"),
            asyncio.create_task(keep_forgetting(self._database), name="idempotency"),
        ]
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        # What start-up made is never garbage, and a batch of calls makes more than the usual 700 objects: 4 % of CPU.
        gc.freeze()
        gc.set_threshold(10_000)
        log.info("working", concurrency=self._settings.concurrency, toolsets=self._catalog.names)
        try:
            # A side task never ends by itself: if one does, the worker stops claiming and ends with its error.
            await asyncio.wait({consuming, stopping, *side}, return_when=asyncio.FIRST_COMPLETED)
            log.info("draining")
            self._consumer.stop()
            await asyncio.wait({consuming})
            await self._clients.announcements.aclose()
            await self._writer.stop()
        finally:
            for task in (consuming, stopping, *side):
                task.cancel()
            outcomes = await asyncio.gather(consuming, stopping, *side, return_exceptions=True)
            await self._feed.aclose()
        log.info("stopped")
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def _received(self, channel: bytes, payload: bytes) -> None:
        if channel != self._control:
            self._clients.questions.received(payload)
            return
        event: Event | None = decode(payload)
        match event:
            case CallCancelled(call_id):
                self._consumer.cancel(call_id)
            case TenantChanged(slug):
                self._directory.forget(slug)

    async def _subscribed(self) -> None:
        self._directory.forget_all()
        self.ready.set()
        while True:
            with contextlib.suppress(Unavailable):
                return await self._clients.questions.refresh()


def _hosted(toolset: Toolset) -> HostedToolset:
    schema = None if toolset.config is None else schema_of(toolset.config)
    return HostedToolset(toolset.name, toolset.title, toolset.source, schema)
