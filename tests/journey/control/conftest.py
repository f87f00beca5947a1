"""A deployment of one's own for each module: tests make their own tenants in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.control import ControlRig, World, control_on, settings_on, world_on
from tests.stores import TestStores


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def control(stores: TestStores) -> AsyncIterator[ControlRig]:
    with settings_on(stores) as settings:
        async with control_on(settings) as rig:
            yield rig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(control: ControlRig) -> World:
    return await world_on(control)
