"""Who does not read the document that answers a POST is cut off, as who does not read a stream is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import orjson
import pytest
from faults import large
from faults.sse import head
from tests.journey.conftest import Platform, eventually, platform_on
from tests.streamable import BOTH, call, client, modern

from trunkline.settings import Settings

SIZE = 6_000_000
"""Bytes of an answer: more than the kernel takes for a connection, less than is kept of one message."""


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    async with platform_on(settings.model_copy(update={"lanes": 4})) as made:
        yield made


async def test_who_does_not_read_the_document_that_answers_is_cut_off(platform: Platform) -> None:
    api = await platform.api(stream_write_timeout=0.5)
    await platform.tenants.enable("demo", large.NAME)
    await platform.worker(large.PATH)
    address = urlsplit(api)
    async with client(api, key=platform.key, accept=BOTH) as user:
        message = modern(call(1, "grow", token="", size=SIZE))
        body = orjson.dumps(message)
        headers = user.headers(
            **user.stateless(message), content_type="application/json", content_length=str(len(body))
        )
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
        await asyncio.get_running_loop().sock_sendall(
            connection, head("POST", "/t/demo/mcp", address.netloc, headers) + body
        )

        async def is_cut_off() -> bool:
            return "trunkline_slow_readers_total 1.0" in (await user.http.get(f"{api}/metrics")).text

        await eventually(is_cut_off)
        connection.close()
