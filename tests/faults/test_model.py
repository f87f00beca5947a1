"""Sequences of what may happen to sessions match the model; and the model notices what it is there to notice."""

from __future__ import annotations

from typing import Any

import pytest
from faults.deployment import Account
from faults.ledger import Ledger
from faults.model import model
from faults.model_session import Expected, Mismatch, Modelled
from tests.faults.conftest import Small


def session(*calls: Expected) -> Modelled:
    made = Modelled(Account("demo", "tenant", "key"), Ledger(), "s")
    made.calls = dict(enumerate(calls, 1))
    return made


def answer(number: int, text: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%b"}]}}' % (number, text.encode())


def test_an_answer_that_is_another_calls_is_noticed() -> None:
    found = session(Expected("echo", "mine"))
    found._take(1, answer(1, "theirs"))
    with pytest.raises(Mismatch, match="theirs"):
        found.check()


def test_an_answer_to_nothing_is_noticed() -> None:
    found = session()
    found._take(1, answer(7, "x"))
    with pytest.raises(Mismatch, match="nothing"):
        found.check()


def test_a_second_answer_is_noticed() -> None:
    found = session(Expected("echo", "x"))
    found._take(1, answer(1, "x"))
    found._take(2, answer(1, "x"))
    with pytest.raises(Mismatch, match="answered at"):
        found._compare()


def test_a_message_that_is_another_when_it_comes_again_is_noticed() -> None:
    found = session(Expected("echo", "x"), Expected("echo", "y"))
    found._take(1, answer(1, "x"))
    found._take(1, answer(2, "y"))
    with pytest.raises(Mismatch, match="and then"):
        found.check()


def test_a_hole_is_noticed() -> None:
    found = session(Expected("echo", "x"))
    found._take(2, answer(1, "x"))
    with pytest.raises(Mismatch, match="missing"):
        found._compare()


def test_an_answer_after_a_call_was_taken_back_is_noticed() -> None:
    found = session(Expected("echo", "x", cancelled_before=2), Expected("ping", ""))
    found._take(1, b'{"jsonrpc":"2.0","id":2,"result":{}}')
    found._take(2, answer(1, "x"))
    with pytest.raises(Mismatch, match="taken back"):
        found._compare()


@pytest.mark.parametrize(
    ("kind", "endangered", "fits"),
    [("once", True, True), ("once", False, False), ("repeatable", True, False), ("echo", True, False)],
)
def test_only_a_call_that_may_not_be_repeated_and_lost_its_worker_has_an_unknown_outcome(
    kind: str, endangered: bool, fits: bool
) -> None:
    unknown: dict[str, Any] = {"error": {"code": -32603, "message": "lost", "data": {"outcome": "unknown"}}}
    assert Expected(kind, "x", endangered).fits(unknown) is fits


async def test_whatever_happens_each_client_sees_what_it_must(small: Small) -> None:
    await small(model)
