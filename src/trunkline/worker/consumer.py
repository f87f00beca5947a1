"""Stations 3 and 5, claim and publish: a worker's slots, and what becomes of each claimed call."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine

import orjson
import structlog

from trunkline.envelope import Call, decode_caller
from trunkline.errors import REQUEST_TIMEOUT, TrunklineError, Unavailable
from trunkline.logs import stations
from trunkline.metrics import Metrics, Outcome
from trunkline.streams.calls import Calls, LaneReader
from trunkline.streams.client import Redis
from trunkline.streams.clock import RedisClock
from trunkline.streams.connection import ConnectionLost, RedisRefusal
from trunkline.streams.outbox import Outbox
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.model import Tenant
from trunkline.worker.executor import Answer, Executor, error_message, internal_error

_BLOCK_MS = 500
"""How long one look at empty lanes takes; also the longest that a stop waits for it."""
_BUSY = 4
"""Calls in one claim from which on the worker counts as busy; then it lets more calls gather before the next."""
_GATHER = 0.002
"""Seconds for which a busy worker lets calls gather: claims, answers and deliveries then travel in batches."""
_SWEEP_EVERY = 1.0
_SWEEP_GRACE_MS = 2_000
"""How long after its deadline a call is left to the worker that runs it."""
_CLOCK_EVERY = 30.0
_DEADLINE_LOOK = 0.1
"""Seconds between looks at the deadlines of what runs here: how late a call may be answered for."""

_THREAD_LOOK = 0.1
"""Seconds between looks at whether the thread of a call that nobody waits for has returned."""

log = structlog.get_logger(__name__)


def waits_for_thread(task: asyncio.Task[None]) -> bool:
    """Whether a task waits for a function that anyio runs in a thread, as the SDK does with every plain `def`.

    asyncio's cancellation would leave the thread behind, beyond any bound; anyio's own waits for it, and costs a
    scope around every call. So the chain of awaits is looked at, for the few calls that are cancelled.
    """
    awaited: object = task.get_coro()
    while awaited is not None:
        code = getattr(awaited, "cr_code", None)
        if code is not None and code.co_name == "run_sync_in_worker_thread":
            return True
        awaited = getattr(awaited, "cr_await", None)
    return False


async def _unless_away(command: Coroutine[object, object, object]) -> None:
    with contextlib.suppress(Unavailable, RedisRefusal):
        await command


class Running:
    """One claimed call while it runs."""

    __slots__ = ("call", "deadline", "notified", "over", "task")

    def __init__(self, call: Call, task: asyncio.Task[None]) -> None:
        self.call = call
        self.task = task
        self.deadline = float(call.deadline_ms)
        """Redis' time in epoch milliseconds; progress moves it."""
        self.notified = 0
        """How many messages of the call were sent to the client."""
        self.over = False
        """Whether nobody waits for what it comes to: cancelled, or answered already."""


class Consumer:
    """Keeps a worker's slots busy.

    Guarantees: never more calls claimed than there are free slots; every claimed request is answered or, if its
    client took it back, forgotten; once `stop` was called nothing more is claimed.
    """

    def __init__(
        self, redis: Redis, worker: str, executor: Executor, directory: TenantDirectory, metrics: Metrics
    ) -> None:
        self._redis = redis
        self._settings = redis.settings
        self._worker = worker
        self._executor = executor
        self._directory = directory
        self._metrics = metrics
        self._calls = Calls(redis)
        self._outbox = Outbox(redis, worker)
        self._clock = RedisClock()
        self._running: dict[str, Running] = {}
        self._answering: set[asyncio.Task[int]] = set()
        self._slot_freed = asyncio.Event()
        self._stopping = False
        self._reader: LaneReader | None = None
        self._unblocking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Claim and run calls until `stop`, then finish what runs."""
        await self._clock.read(self._redis)
        watching = asyncio.create_task(self._watch_deadlines(), name="deadlines")
        try:
            await self._claim_all()
            await self._finish()
        finally:
            watching.cancel()

    def stop(self) -> None:
        """Claim nothing more; a claim that waits in Redis is sent back empty-handed."""
        self._stopping = True
        self._slot_freed.set()
        if self._reader is not None:
            self._unblocking = asyncio.create_task(_unless_away(self._reader.unblock()))

    def cancel(self, call_id: str) -> None:
        """The client took a call back: stop it, if it runs here."""
        running = self._running.get(call_id)
        if running is not None and not running.over:
            running.over = True
            self._metrics.executed("cancelled")
            self._halt(running)

    async def keep(self) -> None:
        """Sweep the lanes for calls past their deadline, and keep the clock, until cancelled."""
        read_clock_at = 0.0
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            with contextlib.suppress(Unavailable):
                if time.monotonic() > read_clock_at:
                    await self._clock.read(self._redis)
                    read_clock_at = time.monotonic() + _CLOCK_EVERY
            for call in await self._calls.sweep_all(_SWEEP_GRACE_MS):
                log.warning("call answered by the sweep", call=call)
                self._metrics.executed("timeout")

    # Claim.

    async def _claim_all(self) -> None:
        pause = 0.05
        while not self._stopping:
            try:
                await self._calls.create_groups()
                await self._claim_until_lost()
                pause = 0.05
            except (ConnectionLost, Unavailable):
                pause = min(pause * 2, 0.5)
            except RedisRefusal as error:
                # NOGROUP: Redis lost its data; the groups are made anew.
                log.warning("claiming was refused", reason=str(error))
                pause = min(pause * 2, 0.5)
            await asyncio.sleep(pause if not self._stopping else 0)

    async def _claim_until_lost(self) -> None:
        connection = await self._redis.dial("lanes", timeout=_BLOCK_MS / 1000 + 4)
        reader = LaneReader(connection, self._redis, self._worker)
        try:
            await reader.identify()
            self._reader = reader
            for call in await reader.recover(self._running):
                self._begin(call)
            while not self._stopping:
                free = self._settings.concurrency - len(self._running)
                if free <= 0:
                    self._slot_freed.clear()
                    await self._slot_freed.wait()
                    continue
                claimed = await reader.claim(free, _BLOCK_MS)
                for call in claimed:
                    self._begin(call)
                if len(claimed) >= _BUSY:
                    await asyncio.sleep(_GATHER)
        finally:
            self._reader = None
            connection.close()

    def _begin(self, call: Call) -> None:
        waited = (self._clock.now_ms() - call.enqueued_ms) / 1000
        self._metrics.claim_total.inc()
        self._metrics.claim_wait_seconds.observe(waited)
        if stations.on:
            stations.log("claim", call=call.id, session=call.session, waited_ms=round(waited * 1000, 1))
        self._running[call.id] = Running(call, asyncio.create_task(self._run(call)))
        self._metrics.running_calls.inc()

    # Execute and publish.

    async def _run(self, call: Call) -> None:
        running = self._running[call.id]
        try:
            answer = await self._execute_safely(running)
            if running.over:
                await self._outbox.publish(call, b"", "cancelled")
            else:
                await self._publish(running, answer)
        except asyncio.CancelledError:
            if not running.over:
                raise
            await self._outbox.publish(call, b"", "cancelled")  # acknowledges; nobody waits for an answer
        finally:
            del self._running[call.id]
            self._metrics.running_calls.dec()
            self._slot_freed.set()

    async def _execute_safely(self, running: Running) -> Answer:
        """Whatever goes wrong is an answer: a message without one would hold its place in the lane for ever."""
        call = running.call
        if call.wants_answer and running.deadline <= self._clock.now_ms():
            # It waited until nobody does any more: what it would do must not be done.
            text = "The call waited for a worker until its time was over; it was not begun."
            return Answer(
                error_message(orjson.loads(call.body).get("id"), internal_error(text, REQUEST_TIMEOUT)), "timeout"
            )
        try:
            return await self._execute(running)
        except (SystemExit, KeyboardInterrupt) as error:
            log.error("a tool tried to end the worker", call=call.id, session=call.session, error=repr(error))
            return self._platform_error(call, "The tool ended unexpectedly.")
        except asyncio.CancelledError:
            if running.over or running.task.cancelling():
                raise
            return self._platform_error(call, "The tool was cancelled from within.")
        except Exception:  # the edge of a message: it is our fault, and said without its details
            log.exception("call failed", call=running.call.id, session=running.call.session)
            return self._platform_error(running.call, "Something went wrong here; it was logged.")

    async def _execute(self, running: Running) -> Answer:
        call = running.call
        caller = decode_caller(call.caller)
        try:
            tenant = self._directory.peek(caller.slug)
            if not isinstance(tenant, Tenant):
                tenant = await self._directory.get(caller.slug)
        except TrunklineError as error:
            return self._platform_error(call, error.message)
        if tenant is None or tenant.id != caller.tenant_id:
            return self._platform_error(call, "The tenant does not exist any more.")
        if stations.on:
            stations.log("execute", call=call.id, tenant=caller.slug, session=call.session)
        started = time.perf_counter()
        answer = await self._executor.execute(
            call, caller, tenant.toolsets, lambda message, progress: self._notify(running, message, progress)
        )
        self._metrics.execute_seconds.observe(time.perf_counter() - started)
        return answer

    async def _publish(self, running: Running, answer: Answer) -> None:
        call = running.call
        running.over = True
        if len(answer.message) > self._settings.outbox_max_bytes:
            answer = self._platform_error(call, "The result is larger than this server can deliver.")
        started = time.perf_counter()
        offset = await self._outbox.publish(call, answer.message, answer.outcome, answer.context)
        self._metrics.publish_seconds.observe(time.perf_counter() - started)
        if call.wants_answer:
            self._metrics.executed(answer.outcome)
            (self._metrics.publish_published if offset else self._metrics.publish_too_late).inc()
        if stations.on:
            stations.log("publish", call=call.id, session=call.session, offset=offset, outcome=answer.outcome)

    async def _notify(self, running: Running, message: bytes, progress: bool) -> None:
        call = running.call
        running.notified += 1
        extend_ms, latest_ms = 0, 0
        if progress and call.wants_answer:
            extend_ms = int(self._settings.call_timeout * 1000)
            latest_ms = call.enqueued_ms + int(self._settings.call_timeout_max * 1000)
            running.deadline = min(self._clock.now_ms() + extend_ms, latest_ms)
        await self._outbox.notify(call, running.notified, message, extend_ms, latest_ms)

    # Deadlines.

    async def _watch_deadlines(self) -> None:
        """Answer the calls whose time is over, until cancelled: one look at all costs less than a timer for each."""
        while True:
            await asyncio.sleep(_DEADLINE_LOOK)
            now = self._clock.now_ms()
            for running in list(self._running.values()):
                if running.call.wants_answer and running.deadline <= now:
                    text = "The call was not finished in time; whether it took effect is unknown."
                    self._answer_instead(running, REQUEST_TIMEOUT, text, "timeout")

    def _answer_instead(self, running: Running, code: int, text: str, outcome: Outcome) -> None:
        """Answer now what a tool has not, then halt it."""
        if running.over:
            return
        running.over = True
        request_id = orjson.loads(running.call.body).get("id")
        error = internal_error(text, code)
        self._metrics.executed(outcome)
        publishing = asyncio.create_task(
            self._outbox.publish(running.call, error_message(request_id, error), outcome)
        )
        self._answering.add(publishing)
        publishing.add_done_callback(self._answering.discard)
        publishing.add_done_callback(lambda _: self._halt(running))

    def _halt(self, running: Running) -> None:
        """Cancel a call, once no blocking function holds a thread for it: until then its slot is not free."""
        if waits_for_thread(running.task):
            asyncio.get_running_loop().call_later(_THREAD_LOOK, self._halt, running)
        else:
            running.task.cancel()

    def _platform_error(self, call: Call, text: str) -> Answer:
        request_id = orjson.loads(call.body).get("id")
        return Answer(error_message(request_id, internal_error(text)) if call.wants_answer else b"", "error")

    # Stop.

    async def _finish(self) -> None:
        """Give what runs the time it may take, then answer what is left with an error."""
        tasks = [running.task for running in self._running.values()]
        if tasks:
            log.info("finishing", calls=len(tasks))
            await asyncio.wait(tasks, timeout=self._settings.drain_timeout)
        left = list(self._running.values())
        for running in left:
            self._answer_instead(
                running, REQUEST_TIMEOUT, "The server stopped before the call was finished; its outcome is unknown.",
                "error",
            )  # fmt: skip
        if left:
            await asyncio.wait([running.task for running in left], timeout=5)
