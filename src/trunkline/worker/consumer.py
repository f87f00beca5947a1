"""Stations 4 and 5, execute and publish: what becomes of each claimed call."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog
from pydantic import BaseModel

from trunkline.envelope import Call, decode_caller
from trunkline.errors import TrunklineError, Unavailable
from trunkline.logs import stations
from trunkline.metrics import Metrics
from trunkline.streams.attempts import Attempts, Verdict
from trunkline.streams.client import Redis
from trunkline.streams.connection import RedisRefusal
from trunkline.streams.lost import MOST_ATTEMPTS
from trunkline.streams.outbox import Outbox
from trunkline.tenants.config_reader import ConfigReader
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.model import Tenant
from trunkline.tracing import Tracing, attributes_of
from trunkline.worker.answers import Answer, in_its_place, overdue, stopped, too_late
from trunkline.worker.claiming import Claiming
from trunkline.worker.clients import Clients
from trunkline.worker.executor import Execution, Executor
from trunkline.worker.probation import PROBATION, Probation
from trunkline.worker.running import Running
from trunkline.worker.slots import Slots

_CLOCK_EVERY = 30.0
_DEADLINE_LOOK = 0.1
"""Seconds between looks at the deadlines of what runs here: how late a call may be answered for."""

_UNTRACED = contextlib.nullcontext()

log = structlog.get_logger(__name__)


class Consumer:
    """Keeps a worker's slots busy.

    Guarantees: never more calls run than there are slots, shared fairly among tenants (`Slots`); what must not happen
    twice is begun only once Redis has recorded by whom; every claimed request is answered, handed back or, if its
    client took it back, forgotten; once `stop` was called nothing more is claimed or begun.
    """

    def __init__(
        self,
        redis: Redis,
        worker: str,
        executor: Executor,
        directory: TenantDirectory,
        configs: ConfigReader,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._redis = redis
        self._settings = redis.settings
        self._worker = worker
        self._executor = executor
        self._directory = directory
        self._configs = configs
        self._metrics = metrics
        self._tracing = tracing
        self._attempts = Attempts(redis, worker)
        self._outbox = Outbox(redis, worker)
        self._clock = redis.clock
        self._slots = Slots(self._settings.concurrency)
        self._running: dict[str, Running] = {}
        self.clients = Clients(redis, worker, self._outbox, self._waits)
        self._side: set[asyncio.Task[Any]] = set()
        self._claiming = Claiming(redis, worker, self._slots, self._claimed, self._hand_back)
        self._loop: asyncio.AbstractEventLoop

    async def run(self) -> None:
        """Claim and run calls until `stop`, then finish what runs."""
        self._loop = asyncio.get_running_loop()
        await self._clock.read(self._redis)
        await self._claiming.run()
        await self._finish()

    def stop(self) -> None:
        """Claim nothing more; a claim that waits in Redis is sent back empty-handed."""
        self._slots.end()
        self._claiming.stop()

    def cancel(self, call_id: str) -> None:
        """The client took a call back: stop it, if it is here."""
        self._claiming.forget(call_id)
        waiting = self._slots.withdraw(call_id)
        if waiting is not None:
            self._metrics.executed("cancelled")
            self._metrics.slots_wanted.set(self._slots.wanted)
            self._aside(self._outbox.publish(waiting, b"", "cancelled"))
        running = self._running.get(call_id)
        if running is not None and not running.over:
            running.over = True
            self._metrics.executed("cancelled")
            running.halt()

    async def keep_clock(self) -> None:
        """Read Redis' clock from time to time, until cancelled."""
        while True:
            await asyncio.sleep(_CLOCK_EVERY)
            with contextlib.suppress(Unavailable):
                await self._clock.read(self._redis)

    # What is claimed (`Claiming`).

    def _claimed(self, calls: Sequence[Call]) -> None:
        now = self._clock.now_ms()
        for call in calls:
            if call.id in self._slots:
                self._renew(call)
                continue
            waited = (now - call.enqueued_ms) / 1000
            self._metrics.claim_total.inc()
            self._metrics.claim_wait_seconds.observe(waited)
            if stations.on:
                stations.log("claim", call=call.id, session=call.session, waited_ms=round(waited * 1000, 1))
            if self._slots.admit(call):
                self._begin(call)
        self._metrics.slots_wanted.set(self._slots.wanted)

    def _renew(self, call: Call) -> None:
        """A call that is here already was given out again.

        The connection broke under a claim, or the consumer group was made anew: it is the same attempt. Or this
        worker stood still and was taken for dead: then it is a newer one, and what runs goes on as that.
        """
        running = self._running.get(call.id)
        if running is None:
            self._begin_all(self._slots.renew(call))
        elif call.entry != running.call.entry:
            running.call = call

    def _begin(self, call: Call) -> None:
        loop = self._loop
        self._running[call.id] = Running(call, loop.create_task(self._run(call)), loop.time())

    # Execute and publish.

    async def _run(self, call: Call) -> None:
        running = self._running[call.id]
        try:
            answer = await self._execute_safely(running)
            if answer is not None:
                await (self._acknowledge(running) if running.over else self._publish(running, answer))
        except asyncio.CancelledError:
            if not running.over:
                raise
            await self._acknowledge(running)
        finally:
            del self._running[call.id]
            self._begin_all(self._slots.release(call))

    def _begin_all(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._begin(call)
        self._metrics.slots_wanted.set(self._slots.wanted)
        self._claiming.slot_freed()

    def _waits(self, call: Call, waiting: bool) -> None:
        if (running := self._running.get(call.id)) is not None:
            running.waits(waiting, self._loop.time())
        self._begin_all(self._slots.lend(call) if waiting else self._slots.take_back(call))

    async def _execute_safely(self, running: Running) -> Answer | None:
        """Whatever goes wrong is an answer: a message without one would hold its place in the lane for ever.

        Returns:
            None where the call is another worker's by now.
        """
        call = running.call
        if call.wants_answer and running.deadline <= self._clock.now_ms():
            return overdue(call) if call.attempt > 1 else too_late(call)
        try:
            return await self._execute(running)
        except (SystemExit, KeyboardInterrupt) as error:
            log.error("a tool tried to end the worker", call=call.id, session=call.session, error=repr(error))
            return in_its_place(call, "The tool ended unexpectedly.")
        except asyncio.CancelledError:
            if running.over or running.task.cancelling():
                raise
            return in_its_place(call, "The tool was cancelled from within.")
        except Exception:  # the edge of a message: it is our fault, and said without its details
            log.exception("call failed", call=call.id, session=call.session)
            self._metrics.internal_errors_total.inc()
            return in_its_place(call, "Something went wrong here; it was logged.")

    async def _execute(self, running: Running) -> Answer | None:
        call = running.call
        caller = decode_caller(call.caller)
        try:
            tenant = self._directory.peek(caller.slug)
            if not isinstance(tenant, Tenant):
                tenant = await self._directory.get(caller.slug)
        except TrunklineError as error:
            return in_its_place(call, error.message)
        if tenant is None or tenant.id != caller.tenant_id:
            return in_its_place(call, "The tenant does not exist any more.")
        configs: tuple[BaseModel, ...] = ()
        if tenant.configured:
            try:
                configs = await self._configs.of(tenant)
            except TrunklineError as error:
                return in_its_place(call, error.message)
        call = running.call  # it may have been given out again meanwhile
        execution = self._executor.prepare(call, caller, tenant.toolsets, self.clients.of(running), configs)
        if call.attempt >= MOST_ATTEMPTS:
            return await self._execute_on_probation(running, execution)
        running.repeatable = execution.repeatable
        if _must_be_recorded(call, running.repeatable) and not await self._may_begin(running):
            return None
        running.begun = True
        return await self._execute_now(running, execution)

    async def _execute_now(self, running: Running, execution: Execution) -> Answer:
        call = execution.call
        if stations.on:
            stations.log("execute", call=call.id, tenant=execution.caller.slug, session=call.session)
        started = time.perf_counter()
        if call.trace and self._tracing is not None:
            answer = await self._execute_traced(self._tracing, running, execution)
        else:
            answer = await execution.run()
        took = time.perf_counter() - started
        self._metrics.execute_seconds.observe(took)
        running.compute_us = max(round((took - running.waited) * 1_000_000), 0)
        return answer

    async def _execute_traced(self, tracing: Tracing, running: Running, execution: Execution) -> Answer:
        call = execution.call
        waited = self._clock.now_ms() - call.enqueued_ms
        attributes = attributes_of(str(execution.body.get("method")), execution.params, execution.caller.slug)
        with tracing.executing(call.trace, waited, attributes) as span:
            try:
                answer = await execution.run()
            except asyncio.CancelledError:
                tracing.fail(span, "timeout" if running.deadline <= self._clock.now_ms() else "cancelled")
                raise
            if answer.outcome != "ok":
                tracing.fail(span, answer.outcome)
        return answer

    async def _execute_on_probation(self, running: Running, execution: Execution) -> Answer | None:
        """Run a call that was lost with two workers: one at a time (`Slots`), with nothing begun beside it."""
        on_probation = Probation(running.call, self._attempts, self._slots, self._aside, self._begin_all)
        async with on_probation:
            proven = self._loop.time() - PROBATION
            young = [other.task for other in self._running.values() if other is not running and other.since > proven]
            await on_probation.suspect(young)
            running.repeatable = execution.repeatable
            if not await self._may_begin(running):
                return None
            running.begun = True
            on_probation.begun()
            return await self._execute_now(running, execution)

    async def _may_begin(self, running: Running) -> bool:
        """Record the start where it must be known if this worker dies; False where the call is not ours to begin."""
        verdict, asked = Verdict.GO, None
        while running.call is not asked:  # it may be given out again while Redis is asked
            asked = running.call
            if _must_be_recorded(asked, running.repeatable):
                verdict = await self._attempts.start(asked, running.repeatable)
        if verdict is not Verdict.GO:
            running.over = True
            if verdict is Verdict.GONE:
                await self._acknowledge(running)
        return verdict is Verdict.GO

    async def _publish(self, running: Running, answer: Answer) -> None:
        call = running.call
        running.over = True
        if len(answer.message) > self._settings.outbox_max_bytes:
            answer = in_its_place(call, "The result is larger than this server can deliver.")
        started = time.perf_counter()
        traced = self._tracing.publishing(call.trace) if call.trace and self._tracing is not None else _UNTRACED
        with traced:
            offset = await self._outbox.publish(
                call, answer.message, answer.outcome, answer.context, running.compute_us
            )
            if not offset and running.call is not call:
                offset = await self._publish_as_claimed(running, answer)
        self._metrics.publish_seconds.observe(time.perf_counter() - started)
        if call.wants_answer and offset:
            self._metrics.executed(answer.outcome)
            self._metrics.publish_published.inc()
        elif call.wants_answer:
            self._metrics.publish_too_late.inc()  # whoever answered it has counted how it ended
        if stations.on:
            stations.log("publish", call=call.id, session=call.session, offset=offset, outcome=answer.outcome)

    async def _publish_as_claimed(self, running: Running, answer: Answer) -> int:
        """Publish for the attempt that this worker has, which may be a newer one by the time that Redis answers."""
        while True:
            call = running.call
            offset = await self._outbox.publish(
                call, answer.message, answer.outcome, answer.context, running.compute_us
            )
            if offset or running.call is call:
                return offset

    async def _acknowledge(self, running: Running) -> None:
        """Have Redis forget a call for whose answer nobody waits."""
        await self._publish_as_claimed(running, Answer(b"", "cancelled"))

    # Deadlines.

    async def watch_deadlines(self) -> None:
        """Answer the calls whose time is over, until cancelled: one look at all costs less than a timer for each."""
        while True:
            await asyncio.sleep(_DEADLINE_LOOK)
            now = self._clock.now_ms()
            for running in list(self._running.values()):
                call = running.call
                if call.wants_answer and running.deadline <= now:
                    self._answer_instead(
                        running, overdue(call) if running.begun or call.attempt > 1 else too_late(call)
                    )

    def _answer_instead(self, running: Running, answer: Answer) -> None:
        """Answer now what a tool has not, then halt it."""
        if running.over:
            return
        running.over = True
        self._metrics.executed(answer.outcome)
        publishing = self._aside(self._take_back_and_publish(running, answer))
        publishing.add_done_callback(lambda _: running.halt())

    async def _take_back_and_publish(self, running: Running, answer: Answer) -> None:
        await self.clients.of(running).take_back_all()
        await self._publish_as_claimed(running, answer)

    def _aside(self, work: Coroutine[object, object, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)
        return task

    # Stop.

    async def _finish(self) -> None:
        """Hand back what never began, give what runs the time it may take, then hand back or answer what is left."""
        waiting = self._slots.empty()
        await self._hand_back(waiting)
        tasks = [running.task for running in self._running.values()]
        if tasks:
            log.info("finishing", calls=len(tasks))
            await asyncio.wait(tasks, timeout=self._settings.drain_timeout)
        left = [running for running in self._running.values() if not running.over]
        again = [running for running in left if running.repeatable and running.call.wants_answer]
        for running in left:
            if running not in again:
                self._answer_instead(running, stopped(running.call))
        await asyncio.gather(*(self.clients.of(running).take_back_all() for running in again))
        await self._hand_back([running.call for running in again], begun=True)
        for running in again:  # one that has ended meanwhile has found that its answer is not wanted, or that it was
            running.over = True
            running.halt()
        if self._running:
            await asyncio.wait([running.task for running in self._running.values()], timeout=5)

    async def _hand_back(self, calls: Sequence[Call], *, begun: bool = False) -> None:
        """With Redis away nothing is lost by not doing so: the calls of a worker that is gone are found."""
        if calls:
            with contextlib.suppress(Unavailable, RedisRefusal):
                log.info("handing back", calls=await self._attempts.hand_back(calls, begun=begun))


def _must_be_recorded(call: Call, repeatable: bool) -> bool:
    """Whether it makes a difference, should this worker die, that an attempt has begun."""
    return call.wants_answer and (call.attempt > 1 or not repeatable)
