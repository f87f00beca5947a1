"""The steps between a worker's claim of a call and its acknowledgement, and what is expected of a death at each."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Step(StrEnum):
    """Where a worker dies."""

    CLAIMED = "claim received"
    STARTING = "start record about to be sent"
    STARTED = "start recorded"
    BEGUN = "tool begun, before its effect"
    EFFECT = "effect done"
    PUBLISHING = "publish about to be sent"
    SENT = "publish sent, reply not read"
    PUBLISHED = "publish answered"


class Expected(NamedTuple):
    """What must come of a call whose first worker died."""

    answer: str
    """The kind of its one answer."""
    begun: int
    """How often the tool begins, in all attempts."""
    effects: int
    """How often it has its effect."""


EXPECTED: dict[str, dict[Step, Expected]] = {
    "once": {
        # Nothing has been recorded, so nothing can have happened: it runs elsewhere.
        Step.CLAIMED: Expected("result", 1, 1),
        Step.STARTING: Expected("result", 1, 1),
        # From here on it may have happened; it is not tried again.
        Step.STARTED: Expected("unknown", 0, 0),
        Step.BEGUN: Expected("unknown", 1, 0),
        Step.EFFECT: Expected("unknown", 1, 1),
        Step.PUBLISHING: Expected("unknown", 1, 1),
        # The answer is in Redis: the death changes nothing.
        Step.SENT: Expected("result", 1, 1),
        Step.PUBLISHED: Expected("result", 1, 1),
    },
    # Says of itself that it may be repeated, so its first attempt is not recorded and it always runs elsewhere.
    "repeatable": {
        Step.CLAIMED: Expected("result", 1, 1),
        Step.BEGUN: Expected("result", 2, 1),
        Step.EFFECT: Expected("result", 2, 2),
        Step.PUBLISHING: Expected("result", 2, 2),
        Step.SENT: Expected("result", 1, 1),
        Step.PUBLISHED: Expected("result", 1, 1),
    },
}
"""By tool: every step at which a worker that runs it can die."""
