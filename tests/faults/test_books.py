"""The harness is only worth what it notices: a server that lies, and whether the client's books show it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from faults import oracles
from faults.client import Client
from faults.client_sse import SseClient
from faults.ledger import Ledger
from faults.pods import until
from faults.wire import Pool

SESSION = "s" * 22
Post = Callable[["Liar", dict[str, Any]], Awaitable[bytes]]
"""What a server does with a tool call: sends events or not, and gives the response; empty hangs up instead."""

ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
AWAY = b"HTTP/1.1 503 Away\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


class Liar:
    """One pod that does with tool calls whatever a test wants, and is honest otherwise."""

    def __init__(self, post: Post) -> None:
        self.url = ""
        self.offset = 0
        self.resumed_from: list[str] = []
        self.resume_status = 200
        self.posts = 0
        self.stream: asyncio.StreamWriter | None = None
        self._post = post

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = {k.lower(): v for k, _, v in (line.partition(b": ") for line in head.split(b"\r\n"))}
                if head.startswith(b"GET"):
                    await self._open(headers, writer)
                    continue
                response = await self._take(orjson.loads(await reader.readexactly(int(headers[b"content-length"]))))
                if not response:
                    break
                writer.write(response)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _open(self, headers: dict[bytes, bytes], writer: asyncio.StreamWriter) -> None:
        seen = headers.get(b"last-event-id", b"").decode()
        if seen:
            self.resumed_from.append(seen)
            if self.resume_status != 200:
                writer.write(f"HTTP/1.1 {self.resume_status} Gone\r\ncontent-length: 0\r\n\r\n".encode())
                self.resume_status = 200
                return
        self.stream = writer
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        last = seen or f"{SESSION}.0"
        self.offset = int(last.partition(".")[2])
        writer.write(f"id: {last}\nevent: endpoint\ndata: /t/x/messages?session_id={SESSION}\n\n".encode())

    async def _take(self, message: dict[str, Any]) -> bytes:
        if message["method"] == "tools/call":
            self.posts += 1
            return await self._post(self, message)
        if "id" in message:
            self.send({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        return ACCEPTED

    def send(self, message: object, *, skip: int = 0) -> None:
        """Send an event, with its offset this much beside the next one."""
        assert self.stream is not None
        self.offset += 1 + skip
        self.stream.write(f"id: {SESSION}.{self.offset}\ndata: {orjson.dumps(message).decode()}\n\n".encode())

    def lose(self) -> None:
        """Break the stream."""
        assert self.stream is not None
        self.stream.transport.abort()


def result(message: dict[str, Any], **changes: object) -> dict[str, object]:
    token = message["params"]["arguments"]["token"]
    return {
        "jsonrpc": "2.0",
        "id": message["id"],
        "result": {"content": [{"type": "text", "text": token}]},
        **changes,
    }


@asynccontextmanager
async def calling(*posts: Post) -> AsyncIterator[tuple[SseClient, list[Liar]]]:
    """A client of as many pods, of which each does one of these things."""
    liars = [Liar(post) for post in posts]
    servers = [await asyncio.start_server(liar.serve, "127.0.0.1", 0) for liar in liars]
    for liar, server in zip(liars, servers, strict=True):
        liar.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pool = Pool()
    account = SimpleNamespace(slug="x", key="k")
    urls = [liar.url for liar in liars]
    client = SseClient(Ledger(), account, urls, random.Random(1), pool, call_timeout=-14.5)
    await client.open()
    try:
        yield client, liars
    finally:
        await client.close()
        pool.close()
        for server in servers:
            server.close()


def broken(client: Client) -> list[str]:
    return [finding.name for finding in oracles.books(client.ledger) if not finding.holds]


async def answer(liar: Liar, message: dict[str, Any]) -> bytes:
    liar.send(result(message))
    return ACCEPTED


async def answer_twice(liar: Liar, message: dict[str, Any]) -> bytes:
    liar.send(result(message))
    liar.send(result(message))
    return ACCEPTED


async def say_nothing(liar: Liar, message: dict[str, Any]) -> bytes:
    return ACCEPTED


async def answer_another(liar: Liar, message: dict[str, Any]) -> bytes:
    liar.send(result(message, id=message["id"] + 7))
    return ACCEPTED


async def answer_with_anothers_text(liar: Liar, message: dict[str, Any]) -> bytes:
    message["params"]["arguments"]["token"] = "of somebody else"
    liar.send(result(message))
    return ACCEPTED


async def leave_an_event_out(liar: Liar, message: dict[str, Any]) -> bytes:
    liar.send(result(message), skip=1)
    return ACCEPTED


async def repeat_an_event(liar: Liar, message: dict[str, Any]) -> bytes:
    liar.send(result(message))
    liar.send(result(message), skip=-1)
    return ACCEPTED


async def break_down(liar: Liar, message: dict[str, Any]) -> bytes:
    return b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"


async def refuse_for_ever(liar: Liar, message: dict[str, Any]) -> bytes:
    return b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n" if liar.posts == 1 else await answer(liar, message)


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        (answer, []),
        (answer_twice, ["second terminal answer"]),
        (say_nothing, ["accepted without answer"]),
        (answer_another, ["accepted without answer", "foreign answers"]),
        (answer_with_anothers_text, ["accepted without answer", "foreign answers"]),
        (leave_an_event_out, ["resumes contiguous or ended"]),
        (repeat_an_event, ["resumes contiguous or ended"]),
        (break_down, ["unexplained"]),
        (refuse_for_ever, ["unexplained"]),
    ],
)
async def test_the_books_show_what_a_server_does_wrong(post: Post, expected: list[str]) -> None:
    async with calling(post) as (client, _):
        call = await client.call("once")
        if post is answer_twice:
            await until(lambda: len(call.answers) == 2, 5)
        if post is repeat_an_event:
            await until(lambda: client.ledger.breaks, 5)
        assert broken(client) == expected
        assert call.fate == ("refused" if post is break_down else "accepted")


async def test_a_refused_call_is_tried_at_another_pod() -> None:
    async def away(liar: Liar, message: dict[str, Any]) -> bytes:
        return AWAY

    async with calling(away, away) as (client, liars):
        holder = next(liar for liar in liars if liar.stream is not None)

        async def elsewhere(liar: Liar, message: dict[str, Any]) -> bytes:
            return await answer(holder, message) if sum(each.posts for each in liars) > 1 else AWAY

        for liar in liars:
            liar._post = elsewhere
        call = await client.call("once")
        assert call.outcome == "result"
        assert [liar.posts for liar in liars] == [1, 1]
        assert client.ledger.refusals["POST 503"] == 1
        assert not broken(client)


async def test_a_call_whose_connection_broke_is_booked_as_unknown_and_never_sent_again() -> None:
    async def hang_up(liar: Liar, message: dict[str, Any]) -> bytes:
        return b""

    async with calling(hang_up) as (client, liars):
        call = await client.call("once")
        assert (call.fate, call.outcome, liars[0].posts) == ("unknown", "unknown", 1)
        assert not broken(client), "it may never have been accepted"


async def test_a_lost_stream_is_resumed_from_the_last_event() -> None:
    async def lose_and_answer(liar: Liar, message: dict[str, Any]) -> bytes:
        liar.send(result(message))
        liar.lose()
        return ACCEPTED

    async with calling(lose_and_answer) as (client, (liar,)):
        await client.call("once")
        await until(lambda: client.ledger.resumes, 5)
        assert liar.resumed_from == [f"{SESSION}.{client.cursor.offset}"]
        assert not broken(client)


async def test_a_session_that_is_gone_ends_its_calls_and_begins_anew() -> None:
    async def forget(liar: Liar, message: dict[str, Any]) -> bytes:
        liar.resume_status = 404
        liar.lose()
        return ACCEPTED

    async with calling(forget) as (client, _):
        call = await client.call("once")
        assert (call.fate, call.outcome, call.ended) == ("accepted", "ended", "404")
        async with asyncio.timeout(5):
            await client.ready.wait()
        assert client.ledger.sessions == 2
        assert not broken(client)
