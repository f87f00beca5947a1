"""The balancer itself: what the other tests here prove hangs on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest
from tests.acceptance.pods import TLS
from tests.balancer import Balancer

PATIENCE = 10.0
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def behind(*pods: Serve) -> AsyncIterator[tuple[Balancer, httpx2.AsyncClient]]:
    """A balancer in front of these, and a client with one connection to it."""
    async with contextlib.AsyncExitStack() as stack:
        balancer = stack.enter_context(Balancer().listening())
        serving: set[asyncio.Task[None]] = set()

        def accepting(serve: Serve) -> Serve:
            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                serving.add(task)
                await serve(reader, writer)
                writer.close()
                await writer.wait_closed()

            return accept

        for serve in pods:
            server = await stack.enter_async_context(await asyncio.start_server(accepting(serve), "127.0.0.1", 0))
            balancer.ports.append(server.sockets[0].getsockname()[1])
        client = httpx2.AsyncClient(
            base_url=balancer.url, timeout=PATIENCE, trust_env=False, verify=TLS,
            limits=httpx2.Limits(max_connections=1),
        )  # fmt: skip
        async with client:
            yield balancer, client
        await asyncio.gather(*serving)


def says(text: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()
        await reader.read()

    return serve


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def test_requests_on_one_connection_are_dealt_in_turn() -> None:
    async with behind(says("a"), says("b"), says("c")) as (balancer, client):
        assert [(await client.get("/")).text for _ in range(7)] == list("abcabca")
        assert sorted(balancer.dealt.values()) == [2, 2, 3]


async def test_a_pod_that_cannot_be_reached_is_passed_over() -> None:
    async with behind(says("a"), says("b")) as (balancer, client):
        balancer.ports.insert(1, 1)
        assert [(await client.get("/")).text for _ in range(4)] == ["a", "b", "b", "a"]


async def test_where_no_pod_can_be_reached_the_answer_is_502_and_the_connection_stays() -> None:
    async with behind() as (balancer, client):
        balancer.ports.append(1)
        assert [(await client.get("/")).status_code for _ in range(2)] == [502, 502]


async def test_a_pod_that_goes_before_it_answers_makes_a_502_and_is_not_asked_twice() -> None:
    async with behind(hangs_up, says("b")) as (balancer, client):
        assert (await client.post("/", content=b"{}")).status_code == 502
        assert balancer.dealt == {balancer.ports[0]: 1}
        assert (await client.get("/")).text == "b"


async def test_an_answer_that_breaks_off_ends_the_client_s_connection() -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")

    async with behind(breaks_off) as (_, client):
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/")


async def test_bytes_go_through_as_they_come_and_a_client_s_end_reaches_the_pod() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()
    head = bytearray()

    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await asked.wait()
        writer.write(b"1\r\nb\r\n")
        assert await reader.read() == b""
        gone.set()

    async with behind(streams) as (_, client), asyncio.timeout(PATIENCE):
        async with client.stream("GET", "/", headers={"Mcp-Name": "echo"}) as response:
            pieces = response.aiter_bytes()
            assert await anext(pieces) == b"a"
            asked.set()
            assert await anext(pieces) == b"b"
        await gone.wait()
    assert b"Mcp-Name: echo\r\n" in head


async def test_a_request_s_body_reaches_the_pod_before_it_is_whole() -> None:
    begun = asyncio.Event()

    async def reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n1\r\na\r\n")
        begun.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
        await reader.read()

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await begun.wait()

    async with behind(reads) as (_, client):
        assert (await client.post("/", content=body())).status_code == 202
