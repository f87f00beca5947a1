from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.integration.audit.logs import Log
from tests.stores import TestStores
from uuid_utils import uuid7

from trunkline.db import Database
from trunkline.settings import Settings, load_settings


@pytest.fixture
def log(settings: Settings, database: Database) -> Log:
    return Log(settings, database)


@pytest.fixture(scope="module")
def shared_settings(stores: TestStores) -> Iterator[Settings]:
    """Settings of a deployment that all tests of a module share, each with a tenant of its own."""
    with stores.fresh_database() as url:
        yield load_settings(
            environment="dev",
            database_url=url,
            redis_url=stores.redis_url,
            redis_prefix=f"test-{secrets.token_hex(6)}:",
            secret_key=secrets.token_hex(32),
        )


@pytest.fixture
async def shared_log(shared_settings: Settings) -> AsyncIterator[Log]:
    """The log of a new tenant of the shared deployment."""
    database = Database(shared_settings.database_url, process="test")
    yield Log(shared_settings, database, uuid7().hex)
    await database.aclose()
