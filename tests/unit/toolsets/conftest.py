from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.toolsets.client import Client, Switch

from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.hosted import Toolset, load

SERVERS = Path(__file__).parents[2] / "servers"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of example servers as working directory, none of them imported yet."""
    monkeypatch.chdir(SERVERS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("library", "archive"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return SERVERS


@pytest.fixture
def library(servers: Path) -> Toolset:
    return load("library:mcp")


@pytest.fixture
def archive(servers: Path) -> Toolset:
    return load("archive:make_server")


@pytest.fixture
async def catalog(library: Toolset, archive: Toolset) -> AsyncIterator[Catalog]:
    async with Catalog([library, archive]) as catalog:
        yield catalog


@pytest.fixture
def direct(catalog: Catalog) -> Client:
    """The library alone: the author's own object."""
    return Client(catalog.server_for((Switch("Library"),)))


@pytest.fixture
def composed(catalog: Catalog) -> Client:
    """The library first, then the archive."""
    return Client(catalog.server_for((Switch("Library"), Switch("town-archive"))))


@pytest.fixture(params=["direct", "composed"])
def either(request: pytest.FixtureRequest) -> Client:
    """The library alone and beside another: what it does must be the same."""
    return request.getfixturevalue(request.param)
