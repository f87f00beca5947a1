"""What a process counts of the calls that it answers in the place of others."""

from __future__ import annotations

import pytest

from trunkline.metrics import Fate, Metrics
from trunkline.streams.client import Redis
from trunkline.streams.custodian import Custodian


async def test_calls_that_end_with_their_workers_are_counted_as_ended_and_those_that_run_again_are_not(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(_: object) -> list[tuple[str, Fate]]:
        return [("c1", "again"), ("c2", "unknown"), ("c3", "parked")]

    monkeypatch.setattr("trunkline.streams.lost.LostWorkers.look", found)
    metrics = Metrics("worker")
    await Custodian(redis, metrics, every=1.0, grace_ms=0).look()
    page = metrics.render().decode()
    assert 'trunkline_execute_total{outcome="error"} 2.0' in page
    assert all(f'trunkline_reclaim_total{{fate="{fate}"}} 1.0' in page for fate in ("again", "unknown", "parked"))
