"""Whatever is sent, the code is right and the pods live; and the judge who says so is right himself."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from faults.fuzz import fuzz
from faults.fuzz_bodies import INVALID_REQUEST, OK, PARSE_ERROR, judge
from faults.fuzz_wire import Wire
from tests.faults.conftest import Small
from tests.journey.conftest import Platform, platform_on
from tests.sse import connect

from trunkline.settings import Settings

OPEN = b'{"jsonrpc":"2.0","id":1,"method":"ping"'


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    async with platform_on(settings) as made:
        yield made


@pytest.mark.parametrize(
    ("body", "right"),
    [
        (OPEN + b"}", {OK}),
        (b" \r\n" + OPEN + b',"params":{}}\t', {OK}),
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', {OK}),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', {OK}),
        (b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x"}}', {OK}),
        (b'{"jsonrpc":"2.0","method":"notifications/cancelled"}', {INVALID_REQUEST}),
        (OPEN + b',"params":[]}', {INVALID_REQUEST}),
        (b"[" + OPEN + b"}]", {INVALID_REQUEST}),
        (OPEN, {PARSE_ERROR}),
        (b"\xef\xbb\xbf" + OPEN + b"}", {PARSE_ERROR}),
        ((OPEN + b"}").decode().encode("utf-16"), {PARSE_ERROR}),
        (OPEN + b',"id":2}', {PARSE_ERROR}),
        (OPEN + b',"x":18446744073709551616}', {PARSE_ERROR}),
        (OPEN + b',"x":NaN}', {PARSE_ERROR}),
        (OPEN + b',"x":"\\ud800"}', {OK, PARSE_ERROR}),
        (OPEN.replace(b"1,", b"1.0,") + b"}", {OK, INVALID_REQUEST}),
        (OPEN + b',"params":{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}}", {PARSE_ERROR, INVALID_REQUEST}),
        (OPEN + b',"params":{"a":[' + b"1," * 100_000 + b"1]}}", {INVALID_REQUEST}),
    ],
)
def test_the_judge_knows_what_a_body_deserves(body: bytes, right: set[int]) -> None:
    assert judge(body).right == right


def test_the_judge_knows_what_becomes_of_a_message() -> None:
    assert judge(OPEN + b"}").request == "1"
    assert judge(b'{"jsonrpc":"2.0","method":"ping"}').request is None
    assert judge(b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}').calls_tool
    cancelled = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}'
    assert judge(cancelled).cancels == "7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", "Bearer x"),
        ("origin", "https://evil.example"),
        ("host", "evil.example"),
        ("content-type", "text/plain"),
    ],
)
async def test_a_trailer_is_no_header(platform: Platform, name: str, value: str) -> None:
    api = await platform.api()
    async with connect(api, key=platform.key) as stream:
        body = OPEN + b"}"
        wire = Wire(api)
        head = (
            f"POST {stream.endpoint} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {platform.key}\r\n"
            "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        chunks = b"%x\r\n%b\r\n0\r\n%b: %b\r\n\r\n" % (len(body), body, name.encode(), value.encode())
        assert (await asyncio.to_thread(wire.exchange, head.encode() + chunks)).status == 202
        wire.close()


class _Tardy(socket.socket):
    """Closes its side only when the other has reset the connection."""

    def shutdown(self, how: int) -> None:
        reset = select.poll()
        reset.register(self, 0)
        assert reset.poll(10_000)
        super().shutdown(how)


def _answer_in_the_middle(listener: socket.socket) -> None:
    """Answer the first connection and reset it with a part of the request unread; answer the second one well."""
    for answer in (b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 200 OK"):
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            connection.sendall(answer + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")


def test_an_answer_before_a_reset_is_heard_and_not_taken_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection

    def connect_tardily(*given: Any) -> _Tardy:
        tardy = _Tardy(fileno=connect(*given).detach())
        tardy.settimeout(10)
        return tardy

    monkeypatch.setattr(socket, "create_connection", connect_tardily)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        listener.settimeout(10)
        serving = threads.submit(_answer_in_the_middle, listener)
        wire = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert wire.exchange(b"half a request", ends=True).status == 400
        assert wire.exchange(b"x").status == 200
        serving.result(timeout=10)


async def test_any_message_and_any_header_get_the_right_code(small: Small) -> None:
    await small(fuzz)
