from __future__ import annotations

import asyncio
from typing import cast

from trunkline.api.connection import Corked


class Transport:
    """A transport that remembers each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.closed:
            raise RuntimeError("unable to perform operation on it; the handler is closed")  # as uvloop's does
        self.writes.append(data)

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def corked() -> tuple[Corked, Transport]:
    transport = Transport()
    return Corked(cast("asyncio.Transport", transport), asyncio.get_running_loop()), transport


async def test_what_is_written_in_one_turn_is_sent_at_once() -> None:
    connection, transport = corked()
    for part in (b"head ", b"body"):
        connection.write(part)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [b"head body"]


async def test_a_transport_learns_of_much_within_the_turn_and_can_tell_who_does_not_keep_up() -> None:
    connection, transport = corked()
    for _ in range(5):
        connection.write(b"x" * 30_000)
    assert [len(written) for written in transport.writes] == [90_000]
    await asyncio.sleep(0)
    assert [len(written) for written in transport.writes] == [90_000, 60_000]


async def test_what_is_to_be_sent_at_once_waits_for_nothing_but_what_was_written_before() -> None:
    connection, transport = corked()
    connection.write_at_once(b"one")
    assert transport.writes == [b"one"]
    connection.write(b"two ")
    connection.write_at_once(b"three")
    await asyncio.sleep(0)
    assert transport.writes == [b"one", b"two three"]


async def test_what_was_written_to_a_client_that_is_gone_by_then_is_dropped_without_a_word() -> None:
    connection, transport = corked()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    connection.write(b"the answer")
    connection.abort()
    await asyncio.sleep(0)
    assert (transport.writes, complaints) == ([], [])
