"""What is answered to a call: by its tool, or in the tool's place."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import orjson

from trunkline.envelope import Call
from trunkline.errors import INTERNAL_ERROR, REQUEST_TIMEOUT
from trunkline.metrics import Outcome

Known = Literal["unknown", "not_started"]
"""What a client may read of a call that got no result, in `error.data.outcome`: whether it may have taken effect."""


class Answer(NamedTuple):
    """What came of a call."""

    message: bytes
    """The JSON-RPC response; empty for a notification."""
    outcome: Outcome
    context: bytes = b""
    """The session's new context, where the call changed it."""


def in_its_place(
    call: Call, text: str, code: int = INTERNAL_ERROR, *, outcome: Outcome = "error", known: Known | None = None
) -> Answer:
    """The platform's own error as the answer to a call; a notification has none."""
    if not call.wants_answer:
        return Answer(b"", outcome)
    error: dict[str, Any] = {"code": code, "message": text}
    if known is not None:
        error["data"] = {"outcome": known}
    message = {"jsonrpc": "2.0", "id": orjson.loads(call.body).get("id"), "error": error}
    return Answer(orjson.dumps(message), outcome)


def too_late(call: Call) -> Answer:
    """The call waited until nobody does any more: what it would do must not be done."""
    text = "The call waited for a worker until its time was over; it was not begun."
    return in_its_place(call, text, REQUEST_TIMEOUT, outcome="timeout", known="not_started")


def overdue(call: Call) -> Answer:
    """The call was begun and not finished in time."""
    text = "The call was not finished in time; whether it took effect is unknown."
    return in_its_place(call, text, REQUEST_TIMEOUT, outcome="timeout", known="unknown")


def stopped(call: Call) -> Answer:
    """The worker had to stop before the call was finished."""
    text = "The server stopped before the call was finished; its outcome is unknown."
    return in_its_place(call, text, known="unknown")
