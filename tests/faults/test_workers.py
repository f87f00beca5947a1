"""Workers that are killed, stand still or are ended by their tools: small sizes of `faults/workers.py`."""

from __future__ import annotations

from faults import workers
from tests.faults.conftest import Small


async def test_calls_survive_the_death_of_their_workers(small: Small) -> None:
    await small(workers.kills)


async def test_a_death_at_each_step_has_the_outcome_of_that_step(small: Small) -> None:
    await small(workers.steps)


async def test_a_worker_that_stood_still_and_goes_on_answers_nothing_twice(small: Small) -> None:
    await small(workers.stopped)


async def test_a_tool_that_hogs_the_event_loop_is_not_run_again(small: Small) -> None:
    await small(workers.hogged)


async def test_a_tool_that_ends_its_worker_is_set_aside_and_other_tenants_are_unharmed(small: Small) -> None:
    await small(workers.left)
