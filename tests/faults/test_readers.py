"""Readers that hardly read cost a bounded memory, are cut off, and miss nothing when they read again."""

from __future__ import annotations

from faults.readers import readers
from tests.faults.conftest import Small


async def test_slow_readers_are_cut_off_at_the_bound_and_catch_up(small: Small) -> None:
    await small(readers)
