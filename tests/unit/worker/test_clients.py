"""Asking a client over the wire: how long a call waits, what others may do meanwhile, and what the client is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from trunkline.envelope import Call
from trunkline.errors import Unavailable
from trunkline.streams.clock import RedisClock
from trunkline.streams.keys import Keys
from trunkline.streams.questions import Questions
from trunkline.toolsets.changes import Change
from trunkline.worker.clients import CallClient, Clients
from trunkline.worker.dispatch import CallOver
from trunkline.worker.running import Running

NOW = 1_000_000_000
CALL = Call("c" * 32, "t1", "5" * 32, b"", b"", b"", NOW, NOW + 60_000, 0, b"1-1")


@dataclass
class FakeOutbox:
    """The wire's `Outbox`: what went out, and how much time it gave the call."""

    sent: list[tuple[int, dict[str, Any], bool]] = field(default_factory=list)
    extended: list[tuple[int, int]] = field(default_factory=list)
    pending: bool = True
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[bool] = field(default_factory=list)
    away: bool = False

    async def notify(
        self,
        call: Call,
        number: int,
        message: bytes,
        extend_ms: int,
        latest_ms: int,
        *,
        asks: bool,
        patience: float | None,
    ) -> int:
        if self.away and not asks:  # it went away after the question
            assert patience is not None, "it would be tried for as long as Redis is away"
            raise Unavailable("away")
        if not self.pending:
            return 0
        self.sent.append((number, orjson.loads(message), asks))
        self.extended.append((extend_ms, latest_ms))
        (self.asked if asks else self.told).set()
        return len(self.sent)

    async def hang_up(self, call: Call, *, own: bool) -> None:
        if self.away:
            raise Unavailable("away")
        self.ended.append(own)


class Line:
    """One running call and its client, without a wire."""

    def __init__(self, settings: SimpleNamespace) -> None:
        redis = SimpleNamespace(
            settings=settings, keys=Keys(settings), clock=RedisClock(), command=self._command  # type: ignore[arg-type]
        )  # fmt: skip
        redis.clock.now_ms = lambda: NOW + 1_000.0
        self.outbox = FakeOutbox()
        self.waiting: list[bool] = []
        self.forgotten: list[str] = []
        clients = Clients(redis, "w1", self.outbox, lambda _, waits: self.waiting.append(waits))  # type: ignore[arg-type]
        self.questions: Questions = clients.questions
        self.clients = clients
        self.running = Running(CALL, asyncio.current_task(), 0)  # type: ignore[arg-type]
        self.client: CallClient = clients.of(self.running)

    async def _command(self, *command: str) -> None:
        self.forgotten.append(command[-1])

    def ask(self, timeout: float | None = None) -> asyncio.Task[bytes]:
        return asyncio.create_task(self.client.ask(lambda question: b'{"id":"%b"}' % question.encode(), timeout))

    async def asked(self) -> str:
        async with asyncio.timeout(10):
            await self.outbox.asked.wait()
        return self.outbox.sent[0][1]["id"]

    def answer(self, question: str, response: bytes) -> None:
        call, attempt, number = question.split(".")
        self.questions.received(f"{call}.{attempt}-{number}\n".encode() + response)


@pytest.fixture
def settings() -> SimpleNamespace:
    return SimpleNamespace(
        client_timeout=300.0, call_timeout=60.0, call_timeout_max=600.0, redis_prefix="x:", lanes=1,
        session_ttl=1_800, outbox_ttl=600, outbox_max_messages=10, outbox_max_bytes=1_000,
    )  # fmt: skip


@pytest.fixture
async def line(settings: SimpleNamespace) -> Line:
    return Line(settings)


async def test_a_question_goes_out_with_the_calls_id_and_its_answer_comes_back(line: Line) -> None:
    asking = line.ask()
    question = await line.asked()
    assert question == f"{CALL.id}.1.1"
    assert line.waiting == [True]
    line.answer(question, b'{"result":{}}')
    assert await asking == b'{"result":{}}'
    assert line.waiting == [True, False]
    assert line.running.questions == ()


async def test_a_question_gives_its_call_its_own_time_and_the_usual_time_after(line: Line) -> None:
    asking = line.ask(timeout=40)
    await line.asked()
    assert line.outbox.extended == [(100_000, NOW + 600_000)]
    assert line.running.deadline == NOW + 101_000
    await line.client.notify(b"{}", progress=True)
    assert line.running.deadline == NOW + 101_000, "progress takes no time away"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_no_question_waits_longer_than_clients_have(line: Line) -> None:
    asking = line.ask(timeout=10_000)
    await line.asked()
    assert line.outbox.extended == [(360_000, NOW + 600_000)]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_client_that_does_not_answer_in_time_is_told_so_before_the_tool_goes_on(line: Line) -> None:
    with pytest.raises(TimeoutError):
        await line.client.ask(lambda question: b'{"id":"%b"}' % question.encode(), 0.01)
    assert [message.get("method") for _, message, _ in line.outbox.sent] == [None, "notifications/cancelled"]
    assert line.outbox.sent[1][0] == 2
    assert line.outbox.sent[1][1]["params"]["requestId"] == f"{CALL.id}.1.1"
    assert line.waiting == [True, False]


async def test_a_tool_that_gives_up_waiting_has_its_client_told(line: Line) -> None:
    asking = line.ask()
    question = await line.asked()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(10):
        await line.outbox.told.wait()
    assert line.outbox.sent[1][1]["params"]["requestId"] == question
    line.answer(question, b"late")
    assert line.running.questions == ()


async def test_with_redis_away_nobody_waits_for_what_the_client_is_not_told(line: Line) -> None:
    line.outbox.away = True
    asking, other = line.ask(timeout=0.01), line.ask()
    with pytest.raises(TimeoutError):
        await asking
    await line.client.take_back_all()
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    assert [message.get("method") for _, message, _ in line.outbox.sent] == [None, None]


async def test_two_questions_at_once_get_each_its_own_answer(line: Line) -> None:
    first, second = line.ask(), line.ask()
    question = await line.asked()
    other = f"{CALL.id}.1.2"
    assert {question, other} == {waiting.id for waiting in line.running.questions}
    line.answer(other, b"second")
    line.answer(question, b"first")
    assert (await first, await second) == (b"first", b"second")


async def test_a_call_that_nobody_waits_for_cannot_ask(line: Line) -> None:
    line.outbox.pending = False
    with pytest.raises(CallOver):
        await line.client.ask(str.encode, None)
    line.outbox.pending, line.running.over = True, True
    with pytest.raises(CallOver):
        await line.client.ask(lambda question: orjson.dumps({"id": question}), None)
    assert line.waiting == []


async def test_a_stream_is_ended_and_left_open_with_redis_away(line: Line) -> None:
    await line.client.hang_up()
    await line.client.hang_up(own=True)
    line.outbox.away = True
    await line.client.hang_up()
    assert line.outbox.ended == [False, True]


async def test_a_change_is_told_to_the_tenant_of_the_call(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Change]] = []
    monkeypatch.setattr(line.clients.announcements, "tell", lambda tenant, change: told.append((tenant, change)))
    line.client.announce(Change("tools"))
    assert told == [("t1", Change("tools"))]
