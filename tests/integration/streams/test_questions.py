"""Requests from a tool to its client, and their responses, which may come by any pod."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uuid_utils
from tests.integration.streams.conftest import Wire

from trunkline.envelope import Call
from trunkline.errors import SessionNotFound, TooManyRequests
from trunkline.streams.bounds import Bounds
from trunkline.streams.calls import Calls
from trunkline.streams.questions import Question, Questions
from trunkline.streams.sessions import Owner
from trunkline.streams.subscriber import Subscriber


@pytest.fixture
async def questions(wire: Wire) -> AsyncIterator[Questions]:
    """What the worker `w1` waits for, while it listens."""
    made, ready = Questions(wire.redis, "w1"), asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    subscriber = Subscriber(wire.redis, made.channels, lambda _, payload: made.received(payload), on_ready)
    task = asyncio.create_task(subscriber.run())
    async with asyncio.timeout(10):
        await ready.wait()
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _claimed(wire: Wire) -> Call:
    await wire.accept()
    (call,) = await wire.claim()
    return call


async def _asked(wire: Wire, questions: Questions, number: int = 1) -> Question:
    call = await _claimed(wire)
    question = questions.open(call, number)
    assert await wire.outbox.notify(call, number, b'{"id":"%b"}' % question.id.encode(), asks=True) > 0
    return question


async def _answer(question: Question) -> bytes:
    async with asyncio.timeout(10):
        return await question.answer


async def test_a_response_reaches_the_worker_that_asked(wire: Wire, questions: Questions) -> None:
    question = await _asked(wire, questions)
    assert await Calls(wire.redis).reply(wire.owner, wire.session, question.id, b'{"result":{}}')
    assert await _answer(question) == b'{"result":{}}'


async def test_of_two_responses_the_first_counts(wire: Wire, questions: Questions) -> None:
    question = await _asked(wire, questions)
    assert await wire.calls.reply(wire.owner, wire.session, question.id, b"first")
    assert not await wire.calls.reply(wire.owner, wire.session, question.id, b"second")
    assert await _answer(question) == b"first"


async def test_a_response_in_another_session_is_nobodys(wire: Wire, questions: Questions) -> None:
    question = await _asked(wire, questions)
    other = "f" * 32
    await wire.sessions.open(wire.owner, other, b"{}", 10)
    assert not await wire.calls.reply(wire.owner, other, question.id, b"stray")
    assert await wire.calls.reply(wire.owner, wire.session, question.id, b"right")
    assert await _answer(question) == b"right"


async def test_a_stranger_cannot_answer(wire: Wire, questions: Questions) -> None:
    question = await _asked(wire, questions)
    for owner in (Owner(wire.owner.tenant, "key_two"), Owner(uuid_utils.uuid7().hex, "key_one")):
        with pytest.raises(SessionNotFound):
            await wire.calls.reply(owner, wire.session, question.id, b"false")
    assert not question.answer.done()


@pytest.mark.parametrize(
    "question", ["", "1", "x" * 200, "{l1}:calls", "a" * 32, f"{'a' * 32}.1.1", f"{'a' * 32}.\n"]
)
async def test_a_response_to_what_nobody_asked_is_dropped(wire: Wire, question: str) -> None:
    assert not await wire.calls.reply(wire.owner, wire.session, question, b"{}")


async def test_a_response_that_was_missed_is_found(wire: Wire) -> None:
    deaf = Questions(wire.redis, "w1")
    question = await _asked(wire, deaf)
    await wire.calls.reply(wire.owner, wire.session, question.id, b"missed")
    assert not question.answer.done()
    await deaf.refresh()
    assert await _answer(question) == b"missed"


async def test_responses_count_against_the_rate_of_their_tenant(wire: Wire, questions: Questions) -> None:
    question, bounds = await _asked(wire, questions), Bounds.of(rate=0.001, burst=1, in_flight=10)
    other = Question(f"{question.call.id}.1.2", question.call, question.answer)
    await wire.calls.reply(wire.owner, wire.session, other.id, b"{}", bounds)
    with pytest.raises(TooManyRequests):
        await wire.calls.reply(wire.owner, wire.session, question.id, b"{}", bounds)
    assert await wire.calls.reply(wire.owner, wire.session, question.id, b"{}")
    assert await _answer(question) == b"{}"


async def test_nobody_waits_for_a_question_that_is_closed(wire: Wire, questions: Questions) -> None:
    question = await _asked(wire, questions)
    await questions.close(question)
    assert not await wire.calls.reply(wire.owner, wire.session, question.id, b"late")


async def test_a_call_that_is_not_pending_asks_nothing(wire: Wire, questions: Questions) -> None:
    call = await _claimed(wire)
    await wire.outbox.publish(call, b"{}", "ok")
    question = questions.open(call, 1)
    assert await wire.outbox.notify(call, 1, b"too late", asks=True) == 0
    assert not await wire.calls.reply(wire.owner, wire.session, question.id, b"{}")
