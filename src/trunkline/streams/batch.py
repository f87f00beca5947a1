"""Many calls in one script: what is asked for in one turn of the event loop leaves together, lane by lane.

A script costs Redis some 8 us before its first command, and a command in it about 2; a system call costs either side
as much. Together, 16 answers cost half of what they cost one by one (docs/decisions/0009-batches.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_LARGEST = 64
"""Items in one script: bounds the time for which Redis does nothing else to about a millisecond."""
_BUSY = 4
"""Items in one turn from which on more are given time to gather."""
_GATHER = 0.004
"""Seconds that they are given; a quiet process never waits."""


class Batch(Generic[Item]):
    """Collects items by lane and hands each lane's to `send`, which answers them in order.

    Raises, from `add`: whatever `send` raised for the batch that the item was in.
    """

    def __init__(self, send: Callable[[int, Sequence[Item]], Awaitable[Sequence[Any]]]) -> None:
        self._send = send
        self._waiting: dict[int, list[tuple[Item, asyncio.Future[Any]]]] = {}
        self._scheduled = False
        self._last = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, lane: int, item: Item) -> asyncio.Future[Any]:
        """Have an item sent with the others of its lane; the future gives its answer."""
        loop = self._loop
        if loop is None:  # made before the loop runs; asking for it each time costs a system call on Python 3.11
            loop = self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        waiting = self._waiting.get(lane)
        if waiting is None:
            self._waiting[lane] = [(item, answer)]
        else:
            waiting.append((item, answer))
        if not self._scheduled:
            self._scheduled = True
            if self._last >= _BUSY:
                loop.call_later(_GATHER, self._flush)
            else:
                loop.call_soon(self._flush)
        return answer

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self._scheduled = False
        self._last = sum(map(len, waiting.values()))
        for lane, items in waiting.items():
            for start in range(0, len(items), _LARGEST):
                task = asyncio.create_task(self._deliver(lane, items[start : start + _LARGEST]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _deliver(self, lane: int, items: Sequence[tuple[Item, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._send(lane, [item for item, _ in items])
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            for _, waiting in items:
                if not waiting.done():
                    waiting.set_exception(error)
            return
        for (_, waiting), answer in zip(items, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)
