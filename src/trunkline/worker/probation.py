"""How a call begins that was lost with two workers already: with nothing else that could be to blame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from trunkline.envelope import Call
from trunkline.streams.attempts import Attempts
from trunkline.worker.slots import Slots

PROBATION = 2.0
"""Seconds at most during which a call that was lost with two workers runs while nothing else begins: if this worker
dies meanwhile, that call is what it died of."""


class Probation:
    """One call on probation: entered, nothing else begins here until it has ended or run for `PROBATION` seconds.

    `Slots` has one such call begin at a time. `resume` begins the calls that had to wait.
    """

    def __init__(
        self,
        call: Call,
        attempts: Attempts,
        slots: Slots,
        aside: Callable[[Coroutine[object, object, None]], object],
        resume: Callable[[Sequence[Call]], None],
    ) -> None:
        self._call = call
        self._attempts = attempts
        self._slots = slots
        self._aside = aside
        self._resume = resume
        self._ending: asyncio.TimerHandle | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        self._slots.close()
        return self

    async def suspect(self, young: Collection[asyncio.Task[Any]]) -> None:
        """Record that this call begins, once the `young` ones have had as long to show that they are harmless."""
        if young:
            await asyncio.wait(young, timeout=PROBATION)
        await self._attempts.suspect(self._call)

    def begun(self) -> None:
        """The call begins now."""
        self._ending = asyncio.get_running_loop().call_later(PROBATION, self._end)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._aside(self._attempts.acquit())
            self._resume([*self._slots.trust(self._call), *self._slots.open()])
