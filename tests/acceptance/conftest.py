"""`deployment`: API pods and workers as processes, on the stores that all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.acceptance.pods import Deployment, deployed

from trunkline.settings import Settings


@pytest.fixture
async def deployment(settings: Settings, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A deployment with the tenant `demo` and a key, and no pods yet; those that a test starts end with it."""
    async with deployed(settings, tmp_path) as made:
        yield made
