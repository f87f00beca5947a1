"""The clients of a worker's calls, over the wire: what goes out while a call runs, and what they are asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable

import orjson

from trunkline.envelope import Call
from trunkline.errors import Unavailable
from trunkline.streams.changes import Changes
from trunkline.streams.client import PATIENCE, Redis
from trunkline.streams.connection import RedisRefusal
from trunkline.streams.outbox import Outbox
from trunkline.streams.questions import Question, Questions
from trunkline.toolsets.changes import Change
from trunkline.worker.announcements import Announcements
from trunkline.worker.dispatch import CallOver
from trunkline.worker.running import Running


async def unless_away(command: Coroutine[object, object, object]) -> None:
    """Run what does no harm if it is not done, Redis being away."""
    with contextlib.suppress(Unavailable, RedisRefusal):
        await command


class Clients:
    """The clients of all calls that a worker runs.

    Whoever listens for this worker hands what comes by the channels of `questions` to it.
    """

    def __init__(self, redis: Redis, worker: str, outbox: Outbox, waits: Callable[[Call, bool], None]) -> None:
        """`waits` hears of a call that waits for its client (True), and of its going on (False)."""
        self.settings = redis.settings
        self.clock = redis.clock
        self.outbox = outbox
        self.waits = waits
        self.questions = Questions(redis, worker)
        self.changes = Changes(redis)
        self.announcements = Announcements(self.changes)
        self._side: set[asyncio.Task[None]] = set()

    def of(self, running: Running) -> CallClient:
        """The client of a call that runs here."""
        return CallClient(self, running)

    def aside(self, work: Coroutine[object, object, object]) -> None:
        """Do something beside a call that may be cancelled meanwhile, unless Redis is away."""
        task = asyncio.create_task(unless_away(work))
        self._side.add(task)
        task.add_done_callback(self._side.discard)


class CallClient:
    """The client of one running call; the functions do what `dispatch.Client` says."""

    __slots__ = ("_running", "_shared")

    def __init__(self, shared: Clients, running: Running) -> None:
        self._shared = shared
        self._running = running

    async def notify(self, message: bytes, *, progress: bool) -> None:
        """Send a notification; one that reports progress starts the call's time anew."""
        extend = self._shared.settings.call_timeout if progress else 0
        await self._send(self._running.next_number(), message, extend)

    async def _send(
        self, number: int, message: bytes, extend: float, *, asks: bool = False, patience: float | None = None
    ) -> int:
        running, call, settings = self._running, self._running.call, self._shared.settings
        extend_ms, latest_ms = 0, 0
        if extend and call.wants_answer:
            extend_ms = int(extend * 1000)
            latest_ms = call.enqueued_ms + int(settings.call_timeout_max * 1000)
            running.deadline = max(running.deadline, min(self._shared.clock.now_ms() + extend_ms, latest_ms))
        return await self._shared.outbox.notify(
            call, number, message, extend_ms, latest_ms, asks=asks, patience=patience
        )

    async def ask(self, write: Callable[[str], bytes], timeout: float | None) -> bytes:
        """Send a request and wait for the response; see `dispatch.Client`.

        The call has as much more time, and after that CALL_TIMEOUT anew. While it waits it does nothing, and others
        have its slot.
        """
        running, settings = self._running, self._shared.settings
        limit = min(timeout or settings.client_timeout, settings.client_timeout)
        number = running.next_number()
        question = self._shared.questions.open(running.call, number)
        running.questions = (*running.questions, question)
        try:
            sent = await self._send(number, write(question.id), limit + settings.call_timeout, asks=True)
            if not sent or running.over:
                raise CallOver
            return await self._answer(question, limit)
        finally:
            running.questions = tuple(other for other in running.questions if other is not question)
            self._shared.aside(self._shared.questions.close(question))

    async def _answer(self, question: Question, limit: float) -> bytes:
        self._shared.waits(question.call, True)
        try:
            async with asyncio.timeout(limit):
                return await question.answer
        except TimeoutError:
            await self.take_back(question)
            raise
        except asyncio.CancelledError:
            self._shared.aside(self.take_back(question))
            raise
        finally:
            self._shared.waits(question.call, False)

    async def take_back(self, *questions: Question) -> None:
        """Tell the client that nobody waits for its answers any more: the questions may be on its screen.

        With Redis away it is not told: whoever does not wait for the client does not wait for Redis either.
        """
        await unless_away(self._take_back(questions))

    async def take_back_all(self) -> None:
        """The same for all that the client is asked at the moment."""
        await self.take_back(*self._running.questions)

    async def _take_back(self, questions: Iterable[Question]) -> None:
        for question in questions:
            params = {"requestId": question.id, "reason": "The tool does not wait any more."}
            message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            await self._send(self._running.next_number(), orjson.dumps(message), 0, patience=PATIENCE)

    async def hang_up(self, *, own: bool = False) -> None:
        """End the stream of the call, or of its session; the client may also keep it, Redis being away."""
        await unless_away(self._shared.outbox.hang_up(self._running.call, own=own))

    def announce(self, change: Change) -> None:
        """Tell all clients of the call's tenant."""
        self._shared.announcements.tell(self._running.call.tenant, change)

    async def subscribe(self, uri: str) -> bool:
        """Have the session hear of changes of a resource."""
        return await self._shared.changes.subscribe(self._running.call, uri)

    async def unsubscribe(self, uri: str) -> None:
        """Have it hear of them no more."""
        await self._shared.changes.unsubscribe(self._running.call, uri)
