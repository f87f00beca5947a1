"""`desk`: the server of `desk.py` on three API pods and three workers, behind a balancer, for a tenant with a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.interop.desk import SERVER
from tests.replicas import Replicas, replicas
from tests.stores import TestStores


@pytest.fixture(scope="package")
def deployed_desk(stores: TestStores) -> Iterator[Replicas]:
    """Started once, for all tests here."""
    with replicas(stores, SERVER, "desk") as made:
        yield made


@pytest.fixture
def desk(deployed_desk: Replicas) -> Iterator[Replicas]:
    """The same, where the test must have met every pod."""
    deployed_desk.balancer.dealt.clear()
    yield deployed_desk
    assert len(deployed_desk.balancer.dealt) == len(deployed_desk.balancer.ports), "it met every pod"
