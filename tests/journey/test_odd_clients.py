"""Clients that speak HTTP as few do: each gets an answer or loses its connection, nothing of it stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import orjson
import pytest
from tests.journey.conftest import Platform, eventually
from tests.sse import PATIENCE, connect, text_of


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a test says what it likes."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()


def get_stream(key: str, version: str = "1.1") -> bytes:
    head = f"GET /t/demo/sse HTTP/{version}\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n\r\n"
    return head.encode()


PING = b"POST /t/demo/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\n{}"


async def active(url: str) -> int:
    async with httpx2.AsyncClient(trust_env=False) as http:
        return int((await http.get(f"{url}/health")).json()["active_connections"])


async def nobody(url: str) -> bool:
    return await active(url) == 0


async def test_a_request_sent_along_with_one_for_a_stream_is_refused(platform: Platform) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(get_stream(platform.key) + PING)
        assert b"400" in await reader.readline()
    await eventually(lambda: nobody(api))


async def test_a_request_behind_an_open_stream_ends_it_and_leaves_nothing(platform: Platform) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(get_stream(platform.key))
        await reader.readuntil(b"event: endpoint")
        assert await active(api) == 1
        writer.write(PING)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1_000_000)
    await eventually(lambda: nobody(api))


async def test_requests_sent_in_one_go_are_answered_in_turn(platform: Platform) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n" * 3)
        for _ in range(3):
            assert b"200" in await reader.readline()
            await reader.readuntil(b'{"status":"ok"}')


async def test_a_stream_over_http_1_0_is_refused_with_what_to_change(platform: Platform) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(get_stream(platform.key, "1.0"))
        answer = await reader.read()
    assert b" 426 " in answer
    assert b"HTTP/1.1" in answer.partition(b"\r\n\r\n")[2]


async def test_what_is_no_http_is_refused_in_json(platform: Platform) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(b"NONSENSE\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"application/json" in head
    assert orjson.loads(body)["error"]["code"] == -32600


@pytest.mark.parametrize("name", ["host", "authorization", "origin"])
async def test_a_header_that_decides_who_may_what_comes_once(platform: Platform, name: str) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        lines = ["GET /health HTTP/1.1", "host: localhost", f"{name}: a", f"{name}: b", "", ""]
        writer.write("\r\n".join(lines).encode())
        assert b" 400 " in await reader.readline()


@pytest.mark.parametrize("origin", ["http://[", "http://]", "http://[::1", "null", "http://", "\x80"])
async def test_an_origin_that_is_none_is_403(platform: Platform, origin: str) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(f"GET /health HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n\r\n".encode("latin-1"))
        assert b" 403 " in await reader.readline()


async def test_a_query_of_many_parameters_is_400(platform: Platform) -> None:
    api = await platform.api()
    query = "&".join(f"p{number}=1" for number in range(40))
    headers = {"authorization": f"Bearer {platform.key}", "content-type": "application/json"}
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{api}/t/demo/messages?{query}", headers=headers, content=b"{}")).status_code == 400
        assert (await http.get(f"{api}/t/demo/sse?{query}", headers=headers)).status_code == 400


@pytest.mark.parametrize("path", ["/t/demo%2Fsse", "/t/demo/sse//", "/t/%64emo/sse", "//health"])
async def test_an_address_has_one_spelling_and_a_trailing_slash(platform: Platform, path: str) -> None:
    api = await platform.api()
    async with raw(api) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert b" 404 " in await reader.readline()


async def test_a_body_that_dribbles_behind_its_refusal_is_cut_off(platform: Platform) -> None:
    api = await platform.api(body_timeout=0.2)
    async with raw(api) as (reader, writer):
        writer.write(b"POST /t/demo/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n{")
        assert b" 401 " in await reader.readline()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1_000_000)


async def test_a_request_named_like_the_cancelled_notification_is_answered(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        answer = await stream.request("notifications/cancelled", {"requestId": 99})
        assert answer["error"]["code"] == -32601
        assert text_of(await stream.call("echo", {"text": "on"})) == "on"
