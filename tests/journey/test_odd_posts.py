"""Clients that post to `/mcp` as few do: each gets an answer or loses its connection, nothing of it stays behind."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.test_odd_clients import raw
from tests.journey.workshop import Gate
from tests.sse import connect
from tests.streamable import BOTH, call, client, modern

from trunkline.api.run import ApiProcess

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


def post(key: str, message: dict[str, Any], version: str = "1.1", **headers: str) -> bytes:
    body = orjson.dumps(message)
    named = {
        "host": "127.0.0.1",
        "authorization": f"Bearer {key}",
        "accept": BOTH,
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST /t/demo/mcp HTTP/{version}\r\n{lines}\r\n".encode() + body


async def nothing_held(platform: Platform) -> bool:
    await platform.redis.command("PING")
    return not list(platform.process(ApiProcess)._connections)


async def test_http_1_0_gets_a_document_in_either_era(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        progress = call(1, "steps", {"progressToken": 1}, gate="", number=1)
        stateless = modern(progress)
        for message, headers in (
            (progress, {"mcp_session_id": one.session, "accept": "text/event-stream"}),
            (stateless, one.stateless(stateless)),
        ):
            async with raw(api) as (reader, writer):
                writer.write(post(platform.key, message, "1.0", **headers))
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                assert b"content-type: application/json" in head
                assert orjson.loads(body)["result"]["content"][0]["text"] == "stepped"


@pytest.mark.parametrize("stateless", [False, True])
async def test_a_request_behind_one_that_is_held_ends_the_connection_and_leaves_nothing(
    platform: Platform, gate: Gate, stateless: bool
) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        message = call(1, "wait", gate=gate.name)
        headers = {"mcp_session_id": one.session}
        if stateless:
            message = modern(message)
            headers = one.stateless(message)
        async with raw(api) as (reader, writer):
            writer.write(post(platform.key, message, **headers))
            await gate.until(inside=1)
            writer.write(post(platform.key, message, **headers))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1_000_000)
        await eventually(lambda: nothing_held(platform))
        async with raw(api) as (reader, writer):
            writer.write(post(platform.key, message, **headers) * 2)
            assert b"400" in await reader.readline(), "two at once are refused before anything of them is accepted"
        gate.open()


@pytest.mark.parametrize(
    ("version", "behind", "status"),
    [("1.0", b"", b"426"), ("1.1", b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"400")],
)
async def test_a_request_that_cannot_have_a_stream_takes_none_away(
    platform: Platform, version: str, behind: bytes, status: bytes
) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one, connect(api, key=platform.key) as legacy:
        await one.initialize()
        await legacy.initialize()
        async with one.open("GET") as own:
            primed = await own.event()
            for path, seen in (("mcp", primed.id), ("sse", legacy.last_id)):
                lines = (
                    f"GET /t/demo/{path} HTTP/{version}", "host: 127.0.0.1", f"authorization: Bearer {platform.key}",
                    f"mcp-session-id: {one.session}", f"last-event-id: {seen}", "", "",
                )  # fmt: skip
                async with raw(api) as (reader, writer):
                    writer.write("\r\n".join(lines).encode() + behind)
                    assert status in await reader.readline()
            await platform.tenants.disable("demo", "demo")
            assert "list_changed" in (await own.message())["method"]
            assert "list_changed" in (await legacy.event()).message["method"]


async def test_white_space_around_a_header_is_none_of_it(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        message = modern(call(1, "echo", text="x"))
        headers = {name: f" \t{value} \t " for name, value in one.stateless(message).items()}
        async with raw(api) as (reader, writer):
            writer.write(post(platform.key, message, connection="close", **headers))
            assert b'"result"' in await reader.read()


async def test_a_body_that_comes_in_pieces_is_waited_for_and_its_client_s_going_is_noticed(
    platform: Platform, gate: Gate
) -> None:
    """A large body stops the reading of the connection for a while; nobody must be left unheard for it."""
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        message = modern(call(1, "wait", gate=gate.name, filler="x" * 300_000))
        async with raw(api) as (_, writer):
            whole = post(platform.key, message, **one.stateless(message))
            for start in range(0, len(whole), 100_000):
                writer.write(whole[start : start + 100_000])
                await writer.drain()
            await gate.until(inside=1)
        await gate.until(cancelled=1)
        await eventually(lambda: nothing_held(platform))
