"""How the port of a pod is closed: whoever was let in is served, and nobody is let in to be hung up on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import pytest
import uvicorn

from trunkline.api.run import listen
from trunkline.api.server import Server


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        writer.write(b"hello, " + await reader.readline())
        await writer.drain()


async def test_who_has_connected_when_the_port_begins_to_close_is_served() -> None:
    listener = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config("unused"))
    server.servers = [await asyncio.start_server(greet, sock=listener)]
    waiting = [socket.create_connection(listener.getsockname(), timeout=5) for _ in range(20)]
    await server.stop_listening(listener, asyncio.Event())  # the event loop has not accepted them yet
    async with asyncio.timeout(5):
        for number, connected in enumerate(waiting):
            reader, writer = await asyncio.open_connection(sock=connected)
            with contextlib.closing(writer):
                writer.write(b"%d\n" % number)
                assert await reader.readline() == b"hello, %d\n" % number


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a filter for what opens a connection")
async def test_nobody_is_let_in_at_the_last_moment_and_then_hung_up_on() -> None:
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    server = Server(uvicorn.Config("unused"))
    port = await asyncio.start_server(greet, sock=listener)
    late: list[bool] = []

    class Late:
        """A client that connects when it is too late for the event loop to accept it."""

        def close(self) -> None:
            with socket.socket() as client:
                client.settimeout(0.2)
                late.append(client.connect_ex(address) == 0)
            port.close()

    server.servers = [Late()]  # type: ignore[list-item]
    await server.stop_listening(listener, asyncio.Event())
    assert late == [False]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
