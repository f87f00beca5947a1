"""One call while it runs, and how it is stopped."""

from __future__ import annotations

import asyncio
from typing import Any

from trunkline.envelope import Call
from trunkline.streams.questions import Question

_THREAD_LOOK = 0.1
"""Seconds between looks at whether the thread of a call that nobody waits for has returned."""


class Running:
    """One claimed call while it runs."""

    __slots__ = (
        "asked", "begun", "call", "compute_us", "deadline", "notified", "over", "questions", "repeatable", "since",
        "task", "waited", "waiting",
    )  # fmt: skip

    def __init__(self, call: Call, task: asyncio.Task[None], since: float) -> None:
        self.call = call
        self.task = task
        self.deadline = float(call.deadline_ms)
        """Redis' time in epoch milliseconds; progress and questions move it."""
        self.since = since
        """When it began, by the loop's clock."""
        self.compute_us = 0
        """For how long its tool ran, without what it waited for its client; known when it has ended."""
        self.waited = 0.0
        """Seconds for which it has waited for its client."""
        self.waiting, self.asked = 0, 0.0
        """How often it waits for its client now, and since when."""
        self.notified = 0
        """How many messages of the call were sent to the client."""
        self.questions: tuple[Question, ...] = ()
        """What its client is asked at the moment."""
        self.begun = False
        """Whether its server may have seen it."""
        self.repeatable = False
        """Whether it may be begun again elsewhere."""
        self.over = False
        """Whether nobody waits for what it comes to: cancelled, answered already, or given back."""

    def waits(self, waiting: bool, now: float) -> None:
        """It waits for its client, once more, or once less; `now` by the loop's clock."""
        if waiting and not self.waiting:
            self.asked = now
        self.waiting += 1 if waiting else -1
        if not self.waiting:
            self.waited += now - self.asked

    def next_number(self) -> int:
        """The number of a further message to the client."""
        self.notified += 1
        return self.notified

    def halt(self) -> None:
        """Cancel the call, once no blocking function holds a thread for it: until then its slot is not free."""
        if waits_for_thread(self.task):
            for question in self.questions:  # it may be what the thread waits for
                question.answer.cancel()
            asyncio.get_running_loop().call_later(_THREAD_LOOK, self.halt)
        else:
            self.task.cancel()


def waits_for_thread(task: asyncio.Task[Any]) -> bool:
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
