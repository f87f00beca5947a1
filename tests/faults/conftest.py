"""What tests of faults have.

- `small`: runs the small size of a scenario, on stores that all tests share unless it takes them away.
- `platform`: a deployment on a Valkey of the test's own, `server`, which its pods reach through `proxy`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.proxy import Proxy
from faults.scenarios import Outcome, Scenario, carry_out
from tests.faults.outages import Server, at_port, own_server, proxied
from tests.journey.conftest import Platform, platform_on
from tests.stores import open_directory

from trunkline.settings import Settings

Small = Callable[[Scenario[Any]], Awaitable[Outcome]]


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that every user may pass through."""
    with open_directory() as made:
        yield made


@pytest.fixture
def small(request: pytest.FixtureRequest, directory: Path) -> Small:
    """Run a scenario in its small size, with a seed that is printed; every oracle must hold."""

    async def run(chosen: Scenario[Any]) -> Outcome:
        shared: Settings | None = None if chosen.needs_stores else request.getfixturevalue("settings")
        seed = secrets.randbits(32)
        print(f"seed {seed}: scripts/faults {chosen.name} --seed {seed}")
        outcome = await carry_out(chosen, chosen.small, seed, directory, shared)
        print(outcome)
        assert not outcome.failed, str(outcome)
        return outcome

    return run


@pytest.fixture
def server() -> Iterator[Server]:
    """A Valkey that a test may break."""
    with own_server() as made:
        yield made


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with proxied(server.port) as made:
        yield made


@pytest.fixture
async def platform(settings: Settings, server: Server, proxy: Proxy) -> AsyncIterator[Platform]:
    """A deployment whose pods reach the test's own Valkey through the proxy."""
    changes = {"redis_url": at_port(server.url, proxy.port), "lanes": 4, "drain_timeout": 5.0}
    async with platform_on(settings.model_copy(update=changes)) as made:
        yield made
