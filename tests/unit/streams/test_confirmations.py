"""WAIT, one at a time for all who wait, over a wire that is answered by hand."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.streams.test_connection import Wire, connected

from trunkline.streams.connection import Connection, ConnectionLost
from trunkline.streams.replicas import Confirmations, Replicas


async def turns() -> None:
    """Let what is ready run, and what that makes ready."""
    for _ in range(3):
        await asyncio.sleep(0)


class Desk:
    """A connection whose peer waits for what it is told to answer."""

    def __init__(self) -> None:
        self.connection: Connection
        self.wire: Wire
        self.connection, self.wire = connected()
        self.confirmations = Confirmations(self.connection, 2, "confirm")

    @property
    def waits(self) -> int:
        return b"".join(self.wire.writes).count(b"$4\r\nWAIT\r\n")

    def answer(self, replies: bytes) -> None:
        self.connection.data_received(replies)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_all_of_one_turn_leave_in_one_write_with_one_wait_behind_them(desk: Desk) -> None:
    joined = []
    for number in range(3):
        joined.append(desk.confirmations.join())
        desk.connection.send("SET", "a", number)
    await turns()
    (written,) = desk.wire.writes
    assert written.index(b"PUBLISH") > written.rindex(b"SET")
    assert written.index(b"WAIT") > written.index(b"PUBLISH")
    desk.answer(b"+OK\r\n" * 3 + b":0\r\n:2\r\n")
    assert await asyncio.gather(*joined) == [True] * 3
    await turns()
    assert desk.waits == 1


async def test_too_few_replicas_are_asked_again_together_with_whoever_came_meanwhile(desk: Desk) -> None:
    first = desk.confirmations.join()
    await turns()
    second = desk.confirmations.join()
    await turns()
    assert desk.waits == 1
    desk.answer(b":0\r\n:1\r\n")
    await turns()
    assert (desk.waits, first.done(), second.done()) == (2, False, False)
    desk.answer(b":0\r\n:2\r\n")
    assert await asyncio.gather(first, second) == [True, True]


async def test_who_came_while_a_wait_was_under_way_is_not_confirmed_by_it(desk: Desk) -> None:
    first = desk.confirmations.join()
    await turns()
    second = desk.confirmations.join()
    desk.answer(b":0\r\n:2\r\n")
    assert await first
    await turns()
    assert (desk.waits, second.done()) == (2, False)


async def test_nobody_is_asked_for_who_has_given_up(desk: Desk) -> None:
    joined = desk.confirmations.join()
    await turns()
    joined.cancel()
    desk.answer(b":0\r\n:0\r\n")
    await turns()
    assert desk.waits == 1


async def test_a_lost_connection_confirms_nothing_and_neither_does_a_replica(desk: Desk) -> None:
    joined = desk.confirmations.join()
    await turns()
    desk.answer(b":0\r\n-ERR WAIT cannot be used with replica instances.\r\n")
    assert not await joined
    assert desk.wire.aborted
    desk.connection.connection_lost(None)
    assert not await desk.confirmations.join()
    with pytest.raises(ConnectionLost):
        await desk.connection.send("PING")


async def test_a_connection_that_was_lost_is_not_remembered() -> None:
    replicas = Replicas(1, 1.0, "confirm")
    first, _ = connected()
    replicas.on(first)
    first.connection_lost(None)
    second, _ = connected()
    assert replicas.on(second) is replicas.on(second)
    assert list(replicas._of) == [second]
    second.connection_lost(None)
