"""What waits for replicas before it is delivered, without a Redis: who has it is told by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from trunkline.api.confirmed import _MOST_HELD, Confirmed
from trunkline.streams.client import Redis
from trunkline.streams.connection import Connection
from trunkline.streams.replicas import Replicas


class Told:
    """Stands for Redis: says when replicas have what came over a connection."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[Any, asyncio.Future[bool]]] = asyncio.Queue()

    async def reached(self, _: Replicas, source: Connection) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((source, answer))
        return await answer


class Desk:
    """What is delivered, and how often it is said that something was missed."""

    def __init__(self) -> None:
        self.redis = Told()
        self.delivered: list[bytes] = []
        self.missed = 0
        self.confirmed = Confirmed(
            cast("Redis", self.redis), cast("Replicas", None), lambda _, body: self.delivered.append(body), self._miss
        )

    def _miss(self) -> None:
        self.missed += 1

    def put(self, source: object, *payloads: bytes) -> None:
        for payload in payloads:
            self.confirmed.put(cast("Connection", source), b"channel", payload)

    async def answer(self, *, has_it: bool) -> object:
        """Answer the next question; of which connection it was."""
        source, answer = await self.redis.asked.get()
        answer.set_result(has_it)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return source


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    running = asyncio.create_task(made.confirmed.run())
    async with asyncio.timeout(5):
        yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_comes_while_a_question_is_open_waits_for_the_next(desk: Desk) -> None:
    desk.put("a", b"1", b"2")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    desk.put("a", b"3")
    assert desk.delivered == []
    assert await desk.answer(has_it=True) == "a"
    assert desk.delivered == [b"1", b"2"]
    await desk.answer(has_it=True)
    assert desk.delivered == [b"1", b"2", b"3"]


async def test_what_came_over_a_connection_that_was_replaced_is_dropped(desk: Desk) -> None:
    desk.put("a", b"1")
    desk.put("b", b"2")
    assert await desk.answer(has_it=True) == "b"
    assert desk.delivered == [b"2"]


async def test_what_will_not_last_is_dropped(desk: Desk) -> None:
    desk.put("a", b"1")
    await desk.answer(has_it=False)
    desk.put("b", b"2")
    await desk.answer(has_it=True)
    assert (desk.delivered, desk.missed) == ([b"2"], 0)


async def test_where_too_much_waits_the_rest_is_read_from_the_outboxes(desk: Desk) -> None:
    desk.put("a", b"1", b"x" * _MOST_HELD, b"2")
    await desk.answer(has_it=True)
    assert (desk.delivered, desk.missed) == ([b"1"], 1)
    desk.put("a", b"3")
    await desk.answer(has_it=True)
    assert (desk.delivered, desk.missed) == ([b"1", b"3"], 1)
