"""A tenant that floods is served, and so is everybody else meanwhile."""

from __future__ import annotations

from asyncio.subprocess import Process
from typing import cast

import pytest
from faults.bystanders import Bystanders, Waited
from faults.flood import Neighbour, Spell, flood
from tests.faults.conftest import Small


def neighbour(**waited: list[float]) -> Neighbour:
    """One who waited so many seconds for each call of a window, and was answered at 5 s of the clock."""
    calls = Bystanders("x", cast("Process", None))
    calls.waited = [Waited(window, 1.0, took, 5.0) for window, found in waited.items() for took in found]
    return Neighbour("x", calls)


def test_a_neighbour_who_waits_too_long_is_noticed() -> None:
    slow = neighbour(quiet=[0.01] * 100, flood=[0.01] * 98 + [0.021] * 2)
    assert slow.ratio == pytest.approx(2.1)
    assert [finding.holds for finding in slow.findings([Spell(4.0, 6.0)], timed=True)] == [True, True, True, False]


def test_a_neighbour_who_was_refused_or_only_answered_afterwards_is_noticed() -> None:
    refused = neighbour(flood=[0.01] * 100)
    refused.calls.ledger.refusals["POST 429"] += 1
    assert [finding.holds for finding in refused.findings([Spell(3.0, 4.0)], timed=False)] == [False, True, False]


async def test_others_are_answered_while_a_flood_waits_and_are_never_refused(small: Small) -> None:
    await small(flood)
