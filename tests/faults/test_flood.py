"""A tenant that floods is served, and so is everybody else meanwhile."""

from __future__ import annotations

import pytest
from faults.flood import Neighbour, flood
from faults.ledger import Ledger
from tests.faults.conftest import Small


def test_a_neighbour_who_waits_too_long_is_noticed() -> None:
    neighbour = Neighbour("x", (), Ledger(), {"quiet": [0.01] * 100, "flood": [0.01] * 98 + [0.021] * 2}, 12)
    assert neighbour.ratio == pytest.approx(2.1)
    assert [finding.holds for finding in neighbour.findings(timed=True)] == [True, True, True, False]


def test_a_neighbour_who_was_refused_or_only_answered_afterwards_is_noticed() -> None:
    neighbour = Neighbour("x", (), Ledger())
    neighbour.ledger.refusals["POST 429"] += 1
    assert [finding.holds for finding in neighbour.findings(timed=False)] == [False, True, False]


async def test_others_are_answered_while_a_flood_waits_and_are_never_refused(small: Small) -> None:
    await small(flood)
