"""A deployment of one's own for each module: tests make their own tenants in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.control import ControlRig, control_on

from trunkline.settings import Settings


@pytest.fixture
async def control(settings: Settings) -> AsyncIterator[ControlRig]:
    async with control_on(settings) as rig:
        yield rig
