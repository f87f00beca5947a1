"""A deployment's stores, and what an operator and a pod have of them."""

from __future__ import annotations

import pytest

from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.revocations import Revocations
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants.keys import Keys
from trunkline.tenants.signing import Keyring
from trunkline.tenants.tenants import Tenants
from trunkline.tenants.verify import Verifier


@pytest.fixture
async def lost_redis(settings: Settings) -> Redis:
    """A Redis that went away."""
    opened = await Redis.connect(settings, "test")
    await opened.aclose()
    return opened


@pytest.fixture
def tenants(settings: Settings, database: Database, redis: Redis) -> Tenants:
    return Tenants(settings, database, redis)


@pytest.fixture
def keys(settings: Settings, database: Database, redis: Redis) -> Keys:
    return Keys(settings, database, redis)


@pytest.fixture
def verifier(settings: Settings, database: Database, redis: Redis) -> Verifier:
    """A pod's, which knows nothing yet."""
    return Verifier(settings, Keyring(Snapshots(redis), database), Revocations(redis), database)
