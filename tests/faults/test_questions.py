"""A tool that asks its client while pods die: the small size of `faults/questions.py`."""

from __future__ import annotations

import pytest
from faults.ledger import Call
from faults.questions import Asked, questions
from tests.faults.conftest import Small


async def test_calls_that_ask_their_clients_end_in_a_defined_way_whatever_dies(small: Small) -> None:
    await small(questions)


def test_an_answer_is_made_of_the_question_and_of_the_call_that_asks() -> None:
    asked = Asked()
    elicited = {"id": "call.1.0", "method": "elicitation/create", "params": {"message": "token"}}
    assert asked.answer(elicited, None) == {"action": "accept", "content": {"text": "word for token"}}
    roots = {"id": "call.1.2", "method": "roots/list"}
    assert asked.answer(roots, None) == {"roots": [{"uri": "file:///folder-token"}]}
    assert asked.answer({**roots, "id": "other.1.2"}, None) == {"roots": [{"uri": "file:///folder-nobody"}]}
    call = Call(1, "of the call", "tools/call", "ask", "x", "", 0.0)
    assert asked.answer(roots, call) == {"roots": [{"uri": "file:///folder-of the call"}]}
    with pytest.raises(ValueError, match="asks ping"):
        asked.answer({"method": "ping"}, None)
