"""Replies in order over a connection that may break, without a network: bytes go in and come out by hand."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.streams.address import RedisAddress
from trunkline.streams.connection import Connection, ConnectionLost, RedisRefusal, _greeting


class Wire:
    """The transport of a connection."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abort(self) -> None:
        self.aborted = True


def connected(**options: Any) -> tuple[Connection, Wire]:
    connection, wire = Connection(**options), Wire()
    connection.connection_made(cast("asyncio.BaseTransport", wire))
    return connection, wire


async def test_commands_of_one_turn_leave_in_one_write_and_are_answered_in_order() -> None:
    connection, wire = connected()
    replies = [connection.send("SET", "a", 1), connection.send("GET", "a"), connection.send("GET", b"b")]
    await asyncio.sleep(0)
    assert len(wire.writes) == 1
    assert wire.writes[0].count(b"*") == 3
    connection.data_received(b"+OK\r\n$1\r\n1\r\n$-1\r\n")
    assert await asyncio.gather(*replies) == [b"OK", b"1", None]
    connection.connection_lost(None)


@given(st.lists(st.integers(1, 9), max_size=12))
async def test_replies_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    connection, _ = connected()
    replies = [connection.send("X") for _ in range(4)]
    stream = b":12345\r\n$5\r\nhello\r\n*2\r\n:1\r\n$-1\r\n-ERR no\r\n"
    for size in cuts:
        connection.data_received(stream[:size])
        stream = stream[size:]
    connection.data_received(stream)
    assert [await reply for reply in replies[:3]] == [12345, b"hello", [1, None]]
    with pytest.raises(RedisRefusal, match="ERR no"):
        await replies[3]
    connection.connection_lost(None)


async def test_a_refusal_names_its_kind() -> None:
    assert RedisRefusal("NOSCRIPT No matching script.").kind == "NOSCRIPT"


async def test_whatever_waits_fails_when_the_connection_is_lost_and_what_comes_after_too() -> None:
    connection, _ = connected()
    waiting = [connection.send("GET", "a") for _ in range(3)]
    connection.connection_lost(ConnectionResetError("by peer"))
    for reply in [*waiting, connection.send("GET", "b")]:
        with pytest.raises(ConnectionLost):
            await reply
    assert connection.lost.done()


async def test_a_reply_that_nobody_waits_for_any_more_shifts_no_other() -> None:
    connection, _ = connected()
    first, second = connection.send("GET", "a"), connection.send("GET", "b")
    first.cancel()
    connection.data_received(b"+one\r\n+two\r\n")
    assert await second == b"two"
    connection.connection_lost(None)


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+nobody asked\r\n"])
async def test_a_peer_that_does_not_speak_redis_is_hung_up_on(noise: bytes) -> None:
    connection, wire = connected()
    connection.data_received(noise)
    assert wire.aborted
    connection.connection_lost(None)


async def test_a_peer_that_answers_nothing_in_time_is_given_up() -> None:
    connection, wire = connected(timeout=0.0)
    reply = connection.send("PING")
    connection.heard -= 1
    connection._check()
    assert wire.aborted
    connection.connection_lost(None)
    with pytest.raises(ConnectionLost):
        await reply


async def test_pushes_reach_their_listener_in_order() -> None:
    heard: list[Any] = []
    connection, wire = connected(on_push=heard.append)
    connection.push("SUBSCRIBE", "a")
    connection.data_received(
        b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"
    )
    assert heard == [[b"subscribe", b"a", 1], [b"message", b"a", b"hi"]]
    assert wire.writes
    connection.connection_lost(None)


def test_the_greeting_logs_in_names_the_process_and_selects_the_database() -> None:
    assert _greeting(RedisAddress(), "api") == [("CLIENT", "SETNAME", "api")]
    assert _greeting(RedisAddress(password="p", database=2), "w") == [
        ("AUTH", "p"), ("CLIENT", "SETNAME", "w"), ("SELECT", 2),
    ]  # fmt: skip
    assert _greeting(RedisAddress(username="u", password="p"), "w")[0] == ("AUTH", "u", "p")


async def test_a_connection_that_is_given_up_while_it_is_made_is_closed() -> None:
    """Whoever follows something may hang up before Redis has answered the greeting."""
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    silent = await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        opening = asyncio.create_task(Connection.open(f"redis://127.0.0.1:{port}", "test"))
        async with asyncio.timeout(5):
            reader, writer = await accepted.get()
            assert await reader.read(1)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            while True:  # reset, or an orderly end: either says that it is closed
                try:
                    if not await reader.read(1_024):
                        break
                except ConnectionResetError:
                    break
        writer.close()
    finally:
        silent.close()
