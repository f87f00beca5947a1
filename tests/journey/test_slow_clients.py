"""Clients that do not read, do not send, or go quiet: bounded, and no burden to others."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest
from tests.journey.conftest import Platform, eventually
from tests.sse import PATIENCE, connect, text_of

LARGE = "x" * 200_000


@asynccontextmanager
async def raw(api: str, receive_buffer: int = 0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which nothing is sent or read but what the test says."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    address = urlsplit(api)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head(method: str, path: str, key: str, *lines: str) -> bytes:
    fields = (f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {key}", *lines)
    return "\r\n".join((*fields, "", "")).encode()


async def metric(api: str, name: str) -> int:
    async with httpx2.AsyncClient(trust_env=False) as http:
        lines = (await http.get(f"{api}/metrics")).text.splitlines()
    return int(float(next(line for line in lines if line.startswith(f"{name} ")).split()[1]))


@pytest.mark.parametrize("bound", ["stream_buffer_messages", "stream_buffer_bytes", "stream_write_timeout"])
async def test_a_client_that_does_not_read_is_cut_off_at_the_bound_and_resumes_without_loss(
    platform: Platform, bound: str
) -> None:
    limits = {"stream_buffer_messages": 1000, "stream_buffer_bytes": 100_000_000, "stream_write_timeout": 60.0}
    limits[bound] = {"stream_buffer_messages": 3, "stream_buffer_bytes": 300_000, "stream_write_timeout": 0.2}[bound]
    roomy = {"outbox_max_bytes": 100_000_000}
    slow, fast = await platform.api(**limits), await platform.api()
    await platform.worker(**roomy)
    async with connect(fast, key=platform.key) as posting, raw(slow, receive_buffer=4096) as (reader, writer):
        await posting.initialize()
        writer.write(head("GET", "/t/demo/sse", platform.key, f"last-event-id: {posting.last_id}"))
        assert "replaced" in await posting.ended()
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"event: endpoint")
        sent = 0
        while not await metric(slow, "trunkline_slow_readers_total"):
            assert sent < 100, "a client that read nothing was kept"
            sent += 1
            await posting.send("tools/call", {"name": "echo", "arguments": {"text": f"{sent} {LARGE}"}})
        assert await metric(slow, "trunkline_active_connections") == 0
    async with connect(fast, key=platform.key, last_event_id=posting.last_id) as after:
        for number in range(1, sent + 1):
            assert text_of((await after.event()).message["result"]) == f"{number} {LARGE}"


async def test_a_resume_that_is_not_read_is_cut_off_and_whoever_reads_a_little_at_a_time_gets_all_in_one(
    platform: Platform,
) -> None:
    pages = {"stream_buffer_bytes": 300_000}
    stalling, patient = await platform.api(**pages, stream_write_timeout=0.2), await platform.api(**pages)
    await platform.worker()
    async with connect(patient, key=platform.key) as before:
        await before.initialize()
        seen = before.last_id
        for _ in range(30):
            await before.call("echo", {"text": LARGE})
        resume = head("GET", "/t/demo/sse", platform.key, f"last-event-id: {seen}")
        async with raw(stalling, receive_buffer=4096) as (_, writer):
            writer.write(resume)
            assert "replaced" in await before.ended()

            async def cut_off() -> bool:
                return await metric(stalling, "trunkline_slow_readers_total") == 1

            await eventually(cut_off)
        async with raw(patient, receive_buffer=4096) as (reader, writer), asyncio.timeout(PATIENCE):
            writer.write(resume)
            read: list[bytes] = []
            missing = 30 * len(LARGE)
            while missing > 0:
                read.append(await reader.read(4096))
                assert read[-1], "the stream has ended"
                missing -= read[-1].count(b"x")
            ids = re.findall(rb"^id: \w+\.(\d+)$", b"".join(read), re.MULTILINE)
            assert [int(offset) for offset in ids] == list(range(1, 32))


async def test_one_message_larger_than_the_buffer_reaches_a_client_that_reads(platform: Platform) -> None:
    api = await platform.api(stream_buffer_bytes=1000, stream_buffer_messages=1)
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for _ in range(3):
            assert text_of(await stream.call("echo", {"text": LARGE})) == LARGE


@pytest.mark.parametrize("begun", [b"", b"GET /t/demo/sse HTTP/1.1\r\nhost: 127"])
async def test_a_head_that_does_not_come_in_time_ends_the_connection(platform: Platform, begun: bytes) -> None:
    api = await platform.api(head_timeout=0.1)
    async with raw(api) as (reader, writer), connect(api, key=platform.key) as stream:
        writer.write(begun)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionResetError):
                assert not await reader.read(), "something was answered to who has asked nothing"
        assert (await stream.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status_code == 202


@pytest.mark.parametrize("begun", [b"", b'{"jsonrpc"'])
async def test_a_body_that_does_not_come_in_time_is_refused(platform: Platform, begun: bytes) -> None:
    api = await platform.api(body_timeout=0.1)
    path = f"/t/demo/messages?session_id={'0' * 32}"
    async with raw(api) as (reader, writer):
        writer.write(
            head("POST", path, platform.key, "content-type: application/json", "content-length: 100") + begun
        )
        async with asyncio.timeout(PATIENCE):
            answer = await reader.readuntil(b"}}")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"in time" in answer


async def test_a_body_is_not_waited_for_where_the_key_is_bad(platform: Platform) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(head("POST", "/t/demo/messages", "nonsense", "content-length: 100"))
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")


async def test_a_quiet_stream_gets_comments(platform: Platform) -> None:
    api = await platform.api(keepalive_interval=1.0)
    async with raw(api) as (reader, writer):
        writer.write(head("GET", "/t/demo/sse", platform.key))
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):
                await reader.readuntil(b"\r\n: keep-alive\n\n\r\n")


async def test_a_client_that_leaves_is_forgotten_and_its_session_stays(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()

    async def gone() -> bool:
        return await metric(api, "trunkline_active_connections") == 0

    await eventually(gone)
    async with connect(api, key=platform.key, last_event_id=stream.last_id) as again:
        assert orjson.dumps(await again.call("echo", {"text": "still here"}))


async def test_a_connection_on_which_nothing_is_asked_any_more_is_closed_in_the_end(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.api.run._KEEP_ALIVE", 0.1)
    api = await platform.api()
    async with raw(api) as (reader, writer), asyncio.timeout(PATIENCE):
        for _ in range(2):
            writer.write(head("GET", "/livez", platform.key))
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert b"HTTP" not in await reader.read()  # up to the end of the connection


async def test_requests_in_one_piece_are_answered_in_their_order(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream, raw(api) as (reader, writer), asyncio.timeout(PATIENCE):
        await stream.initialize()
        path = f"/t/demo/messages?session_id={stream.session}"
        for body in (b'{"jsonrpc":"2.0","id":7,"method":"ping"}', b"{}", b"[", b"-"):
            lines = ("content-type: application/json", f"content-length: {len(body)}")
            writer.write(head("POST", path, platform.key, *lines) + body)
        writer.write(head("GET", "/nowhere", platform.key, "connection: close"))
        answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"202", b"400", b"400", b"400", b"404"]
