"""What the books show of a server that lies over streamable HTTP, in either era."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from faults import oracles
from faults.client import Client
from faults.client_http import HttpClient
from faults.client_modern import ModernClient
from faults.ledger import Ledger
from faults.pods import until
from faults.wire import Pool

SESSION, STREAM = "s" * 32, f"{'s' * 32}.{'c' * 32}"
CUT, END = b"cut", b"end"
"""Instead of a part of a response: the connection breaks, or the response ends in order."""
Parts = Iterator[bytes]
Answering = Callable[["Liar", dict[str, Any]], Parts]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PRIMING = b"id: %b.0\nretry: 10\ndata: \n\n" % STREAM.encode()


class Liar:
    """One pod that answers a tool call, and whoever resumes, as a test wants, and is honest otherwise."""

    def __init__(self, call: Answering, resume: Answering | None = None) -> None:
        self.url = ""
        self.calls: list[dict[str, Any]] = []
        self.resumed_from: list[str] = []
        self._call = call
        self._resume = resume or call

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = {k.lower(): v for k, _, v in (line.partition(b": ") for line in head.split(b"\r\n"))}
                body = await reader.readexactly(int(headers.get(b"content-length", 0)))
                for part in self._answer(headers, orjson.loads(body) if body else {}):
                    if part == CUT:
                        return
                    writer.write(part)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    def _answer(self, headers: dict[bytes, bytes], message: dict[str, Any]) -> Parts:
        seen = headers.get(b"last-event-id", b"").decode()
        method = message.get("method", "")
        if seen:
            self.resumed_from.append(seen)
            yield from self._resume(self, self.calls[-1])
        elif method == "tools/call":
            self.calls.append(message)
            yield from self._call(self, message)
        elif method in ("", "subscriptions/listen"):
            yield HEAD
        elif "id" in message:
            yield json_of({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        else:
            yield b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sent(document: object, offset: int = 0) -> bytes:
    """An event, numbered where an offset is given."""
    number = b"id: %b.%d\n" % (STREAM.encode(), offset) if offset else b""
    return chunk(b"%bdata: %b\n\n" % (number, orjson.dumps(document)))


def json_of(document: object) -> bytes:
    body = orjson.dumps(document)
    head = b"HTTP/1.1 200 OK\r\nmcp-session-id: %b\r\ncontent-type: application/json\r\n" % SESSION.encode()
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


def result(message: dict[str, Any], **changes: object) -> dict[str, object]:
    text = message["params"]["arguments"]["token"]
    return {
        "jsonrpc": "2.0",
        "id": message["id"],
        "result": {"content": [{"type": "text", "text": text}]},
        **changes,
    }


@asynccontextmanager
async def calling(kind: type[Client], liar: Liar) -> AsyncIterator[Client]:
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    liar.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pool = Pool()
    account = SimpleNamespace(slug="x", key="k")
    client = kind(Ledger(), account, [liar.url], random.Random(1), pool, call_timeout=-14.5)
    await client.open()
    try:
        yield client
    finally:
        await client.close()
        pool.close()
        server.close()


def broken(client: Client) -> list[str]:
    return [finding.name for finding in oracles.books(client.ledger) if not finding.holds]


def answer(_: Liar, message: dict[str, Any]) -> Parts:
    yield json_of(result(message))


def answer_by_a_stream(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(PRIMING) + sent(result(message), 1) + chunk(b"")


def answer_twice(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(PRIMING) + sent(result(message), 1) + sent(result(message), 2) + chunk(b"")


def answer_another(_: Liar, message: dict[str, Any]) -> Parts:
    yield json_of(result(message, id="of somebody else"))


def leave_an_event_out(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(PRIMING) + sent(result(message), 2) + chunk(b"")


def take_another_stream(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(PRIMING) + sent(result(message), 1).replace(b"c" * 32, b"d" * 32) + chunk(b"")


def end_without_a_word(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(PRIMING.replace(b"retry: 10\n", b"")) + chunk(b"")


def accept_only(_: Liar, message: dict[str, Any]) -> Parts:
    yield b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"


def break_off(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(PRIMING)
    yield CUT


def go_on(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(PRIMING) + sent(result(message), 1) + chunk(b"")


def be_gone(_: Liar, message: dict[str, Any]) -> Parts:
    yield b"HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("call", "resume", "expected", "outcome"),
    [
        (answer, None, [], "result"),
        (answer_by_a_stream, None, [], "result"),
        (answer_twice, None, ["second terminal answer"], "result"),
        (answer_another, None, ["accepted without answer", "foreign answers"], "accepted"),
        (leave_an_event_out, None, ["resumes contiguous or ended"], "result"),
        (take_another_stream, be_gone, ["resumes contiguous or ended"], "ended"),
        (end_without_a_word, go_on, ["unexplained"], "result"),
        (accept_only, None, ["accepted without answer", "unexplained"], "accepted"),
        (break_off, go_on, [], "result"),
        (break_off, be_gone, [], "ended"),
    ],
)
async def test_the_books_show_what_a_server_does_wrong_in_a_session(
    call: Answering, resume: Answering | None, expected: list[str], outcome: str
) -> None:
    liar = Liar(call, resume)
    async with calling(HttpClient, liar) as client:
        made = await client.call("once")
        await made.done.wait() if outcome != "accepted" else None
        assert made.outcome == outcome
        if call is answer_twice:
            await until(lambda: len(made.answers) == 2, 5)
        assert broken(client) == expected
        assert liar.resumed_from == ([f"{STREAM}.0"] if resume is not None else [])


async def test_a_session_that_is_gone_is_opened_anew_and_the_call_was_refused() -> None:
    async with calling(HttpClient, Liar(be_gone)) as client:
        made = await client.call("once")
        assert (made.outcome, client.ledger.ends) == ("refused", {"404": 1})
        async with asyncio.timeout(5):
            await client.ready.wait()
        assert client.ledger.sessions == 2
        assert not broken(client)


def end_in_order(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + chunk(b": here\n\n") + chunk(b"")


def answer_with_an_id(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD + sent(result(message), 1) + chunk(b"")


def break_off_after_the_head(_: Liar, message: dict[str, Any]) -> Parts:
    yield HEAD
    yield CUT


def break_off_before_the_head(_: Liar, message: dict[str, Any]) -> Parts:
    yield CUT


@pytest.mark.parametrize(
    ("call", "expected", "outcome"),
    [
        (answer, [], "result"),
        (end_in_order, ["unexplained"], "ended"),
        (answer_with_an_id, ["unexplained"], "result"),
        (break_off_after_the_head, [], "ended"),
        (break_off_before_the_head, [], "unknown"),
    ],
)
async def test_the_books_show_what_a_server_does_wrong_without_a_session(
    call: Answering, expected: list[str], outcome: str
) -> None:
    async with calling(ModernClient, Liar(call)) as client:
        made = await client.call("once")
        await made.done.wait()
        assert made.outcome == outcome
        assert broken(client) == expected


async def test_a_call_that_asks_first_is_made_again_with_the_answers() -> None:
    asks = {
        "resultType": "input_required",
        "inputRequests": {"a": {"method": "roots/list"}},
        "requestState": "sealed",
    }

    def ask(liar: Liar, message: dict[str, Any]) -> Parts:
        first = len(liar.calls) == 1
        yield json_of(result(message, result=asks) if first else result(message))

    liar = Liar(ask)
    async with calling(ModernClient, liar) as client:
        client.answering = lambda question, call: {"roots": [question["method"]]}
        made = await client.call("once")
        assert made.outcome == "result"
        assert [call.outcome for call in client.ledger.tool_calls] == ["asks", "result"]
        again = liar.calls[1]["params"]
        assert (again["inputResponses"], again["requestState"]) == ({"a": {"roots": ["roots/list"]}}, "sealed")
        assert again["arguments"] == liar.calls[0]["params"]["arguments"]
        assert not broken(client)
