from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from trunkline.api.connection import Cycle, Protocol
from trunkline.api.heads import Head, KnownHeads
from trunkline.api.http import ClientGone, Request
from trunkline.errors import TrunklineError

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HEAD = "POST /t/demo/messages?session_id=1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def post(body: bytes, head: str = HEAD) -> bytes:
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Transport:
    """The socket, with a client that reads all."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _name: str) -> None:
        return None

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Echo:
    """Answers each request with its body, when told to."""

    def __init__(self) -> None:
        self.heads = KnownHeads()
        self.go = asyncio.Event()
        self.go.set()
        self.began: list[tuple[Head, bool]] = []
        """The head of each request, and whether its head was known."""
        self.gone = 0

    async def __call__(self, head: Head, protocol: Protocol, cycle: RequestResponseCycle) -> None:
        self.began.append((head, isinstance(cycle, Cycle)))
        request = Request(head, protocol, cycle)
        try:
            body = await request.body(1000, 1.0) if head.method == "POST" else b"none"
            await self.go.wait()
            await request.answer(200, body)
        except ClientGone:
            self.gone += 1
        except TrunklineError as error:
            await request.refuse(error)

    @property
    def known(self) -> list[bool]:
        return [known for _, known in self.began]


class Wire:
    """A client's connection to an application."""

    def __init__(self, app: Echo) -> None:
        config = uvicorn.Config(
            cast("Any", app), loop="none", ws="none", lifespan="off", proxy_headers=False, log_config=None
        )
        config.load()
        self.state = ServerState()
        self.protocol = Protocol(config, self.state, {}, asyncio.get_running_loop())
        self.transport = Transport()
        self.protocol.connection_made(cast("asyncio.Transport", self.transport))

    async def send(self, *pieces: bytes) -> bytes:
        """What is answered to pieces that come one after the other."""
        self.transport.written = b""
        for piece in pieces:
            self.protocol.data_received(piece)
            for _ in range(6):
                await asyncio.sleep(0)
        return self.transport.written


@pytest.fixture
async def app() -> Echo:
    return Echo()


async def test_a_head_that_came_before_is_not_parsed_again_on_any_connection(app: Echo) -> None:
    for wire in (Wire(app), Wire(app)):
        for body in (b"one", b"another, of another length"):
            answer = await wire.send(post(body))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\n" + body)
        assert not wire.state.tasks
    assert app.known == [False, True, True, True]
    first = app.began[0][0]
    assert all(head is first for head, _ in app.began), "and what was found out about it stays"


@pytest.mark.parametrize(
    "other",
    [
        HEAD.replace("localhost", "elsewhere"),
        HEAD.replace("session_id=1", "session_id=2"),
        HEAD + "authorization: Bearer x\r\n",
        HEAD.replace("host", "Host"),
    ],
)
async def test_a_head_that_differs_at_all_is_another(app: Echo, other: str) -> None:
    wire = Wire(app)
    await wire.send(post(b"x"))
    assert (await wire.send(post(b"x", other))).endswith(b"x")
    assert app.known == [False, False]


@pytest.mark.parametrize("extra", ["connection: close\r\n", "expect: 100-continue\r\n", "upgrade: h2c\r\n"])
async def test_what_wants_more_than_an_answer_is_parsed_each_time(app: Echo, extra: str) -> None:
    for _ in range(2):
        assert b"200 OK" in await Wire(app).send(post(b"x", HEAD + extra))
    assert app.known == [False, False]


async def test_a_known_head_in_pieces_goes_to_the_parser(app: Echo) -> None:
    wire = Wire(app)
    await wire.send(post(b"x"))
    whole = post(b"in pieces")
    for at in (1, 30, len(whole) - 9, len(whole) - 1):
        assert (await wire.send(whole[:at], whole[at:])).endswith(b"in pieces")
    assert (await wire.send(post(b"whole again"))).endswith(b"whole again")
    assert app.known == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    "first", [post(b"1"), post(b"1").replace(b"content-l", b"CONTENT-L"), b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_requests_sent_in_one_go_are_each_answered_however_often_they_come(app: Echo, first: bytes) -> None:
    wire = Wire(app)
    for _ in range(3):
        answer = await wire.send(first + post(b"22"))
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.endswith(b"22")
    assert not any(app.known)


async def test_a_request_behind_one_with_a_known_head_waits_for_its_answer(app: Echo) -> None:
    wire = Wire(app)
    await wire.send(post(b"x"))
    app.go.clear()
    assert await wire.send(post(b"first"), post(b"second")) == b""
    app.go.set()
    answer = await wire.send()
    for _ in range(12):
        await asyncio.sleep(0)
    answer = wire.transport.written
    assert answer.index(b"first") < answer.index(b"second")
    assert app.known == [False, True, False]


async def test_a_length_that_is_none_is_refused_whatever_came_before(app: Echo) -> None:
    wire = Wire(app)
    await wire.send(post(b"x"))
    assert b" 400 " in await wire.send(post(b"x").replace(b"length: 1", b"length: 0x1"))
    assert wire.transport.closed


async def test_a_client_that_has_gone_gets_no_answer_and_leaves_nothing(app: Echo) -> None:
    wire = Wire(app)
    await wire.send(post(b"x"))
    wire.protocol.data_received(post(b"y"))
    wire.protocol.connection_lost(None)
    for _ in range(6):
        await asyncio.sleep(0)
    assert app.gone == 1
    assert not wire.state.tasks


async def test_while_the_pod_stops_an_answer_says_that_it_is_the_last(app: Echo) -> None:
    wire = Wire(app)
    await wire.send(post(b"x"))
    wire.state.default_headers = [(b"connection", b"close")]
    answer = await wire.send(post(b"y"))
    assert b"connection: close\r\n" in answer
    assert wire.transport.closed
    assert app.known == [False, True]


async def test_a_body_over_the_limit_is_refused_though_its_head_is_known(app: Echo) -> None:
    wire = Wire(app)
    await wire.send(post(b"x"))
    assert b" 413 " in await wire.send(post(b"x" * 1001))


async def test_a_bounded_number_of_heads_of_bounded_length_is_known(app: Echo) -> None:
    wire = Wire(app)
    for number in range(1100):
        await wire.send(post(b"x", f"{HEAD}x-number: {number}\r\n"))
    await wire.send(post(b"x", f"{HEAD}x-long: {'x' * 5000}\r\n"))
    assert len(app.heads._heads) == 1024
