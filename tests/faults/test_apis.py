"""API pods that are killed under their clients: the small size of `faults/apis.py`."""

from __future__ import annotations

from faults import apis
from tests.faults.conftest import Small


async def test_clients_of_killed_api_pods_go_on_elsewhere_within_seconds(small: Small) -> None:
    await small(apis.api_killed)
