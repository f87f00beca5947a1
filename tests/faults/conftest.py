"""`small`: runs the small size of a scenario, on stores that all tests share unless it takes them away."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.scenarios import Outcome, Scenario, carry_out
from tests.stores import open_directory

from trunkline.settings import Settings

Small = Callable[[Scenario[Any]], Awaitable[Outcome]]


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that every user may pass through."""
    with open_directory() as made:
        yield made


@pytest.fixture
def small(request: pytest.FixtureRequest, directory: Path) -> Small:
    """Run a scenario in its small size, with a seed that is printed; every oracle must hold."""

    async def run(chosen: Scenario[Any]) -> Outcome:
        shared: Settings | None = None if chosen.needs_stores else request.getfixturevalue("settings")
        seed = secrets.randbits(32)
        print(f"seed {seed}: scripts/faults {chosen.name} --seed {seed}")
        outcome = await carry_out(chosen, chosen.small, seed, directory, shared)
        print(outcome)
        assert not outcome.failed, str(outcome)
        return outcome

    return run
