"""A rolling deploy under load: the small size of `faults/deploys.py`."""

from __future__ import annotations

from faults import deploys
from tests.faults.conftest import Small


async def test_a_rolling_deploy_fails_no_call(small: Small) -> None:
    await small(deploys.deploys)
