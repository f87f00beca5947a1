"""`database` and `redis`: both stores of the test's own deployment, as its processes have them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.streams.client import Redis


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    opened = Database(settings.database_url, process="test")
    yield opened
    await opened.aclose()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    opened = await Redis.connect(settings, "test")
    yield opened
    await opened.aclose()
