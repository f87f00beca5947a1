"""The proxy that stands between pods and stores: it must do to them what it says, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from faults.proxy import Proxy

PATIENCE = 5.0
NOTHING = 0.1
"""Seconds in which nothing may arrive."""


@dataclass
class Line:
    """A connection through the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def through(cls, proxy: Proxy) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def says(self, text: bytes) -> bytes:
        self.writer.write(text)
        return await self.hears(len(text))

    async def hears(self, count: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(count)

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(NOTHING):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return True

    async def aclose(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


class Echo:
    """A server that repeats what it hears, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self.arrived = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                self.heard += piece
                self.arrived.set()
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    made = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
    assert await made.start() == made.port
    yield made
    await made.aclose()
    server.close()


@pytest.fixture
async def line(proxy: Proxy) -> AsyncIterator[Line]:
    made = await Line.through(proxy)
    yield made
    await made.aclose()


async def test_it_forwards_all_bytes_and_their_end(line: Line) -> None:
    sent = bytes(range(256)) * 4_000
    line.writer.write(sent)
    line.writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        assert await line.reader.read(-1) == sent


async def test_a_delay_holds_every_piece_both_ways(proxy: Proxy, line: Line) -> None:
    assert await line.says(b"one") == b"one"
    proxy.delay(0.1)
    before = asyncio.get_running_loop().time()
    assert await line.says(b"two") == b"two"
    assert asyncio.get_running_loop().time() - before >= 0.2


async def test_stalled_upwards_it_accepts_and_forwards_nothing_until_healed(
    proxy: Proxy, line: Line, echo: Echo
) -> None:
    proxy.stall("up")
    another = await Line.through(proxy)
    for each in (line, another):
        each.writer.write(b"kept")
        assert await each.hears_nothing()
    assert echo.heard == b""

    proxy.heal()
    assert await line.hears(4) == await another.hears(4) == b"kept"
    assert echo.heard == b"keptkept"
    await another.aclose()


async def test_stalled_downwards_the_target_hears_and_its_answer_waits(proxy: Proxy, line: Line, echo: Echo) -> None:
    proxy.stall("down")
    line.writer.write(b"heard")
    async with asyncio.timeout(PATIENCE):
        await echo.arrived.wait()
    assert await line.hears_nothing()
    proxy.heal()
    assert await line.hears(5) == b"heard"


async def test_cut_it_resets_and_refuses_and_healed_it_answers_at_the_same_port(proxy: Proxy, line: Line) -> None:
    assert await line.says(b"here") == b"here"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await line.hears(1)
    with pytest.raises(ConnectionRefusedError):
        await Line.through(proxy)

    proxy.heal()
    again = await Line.through(proxy)
    assert await again.says(b"again") == b"again"
    await again.aclose()


async def test_cut_and_healed_in_one_breath_it_still_accepts(proxy: Proxy) -> None:
    for _ in range(20):
        proxy.cut()
        proxy.heal()
    again = await Line.through(proxy)
    assert await again.says(b"again") == b"again"
    await again.aclose()


async def test_half_closed_the_client_reads_an_end_and_the_target_still_hears(
    proxy: Proxy, line: Line, echo: Echo
) -> None:
    assert await line.says(b"1") == b"1"
    echo.arrived.clear()
    proxy.half_close()
    async with asyncio.timeout(PATIENCE):
        assert await line.reader.read(1) == b""
        line.writer.write(b"2")
        await echo.arrived.wait()
    assert echo.heard == b"12"


async def test_a_target_that_refuses_is_seen_as_a_reset(free_port: int) -> None:
    proxy = Proxy("127.0.0.1", free_port)
    await proxy.start()
    refused = await Line.through(proxy)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await refused.hears(1)
    await refused.aclose()
    await proxy.aclose()
