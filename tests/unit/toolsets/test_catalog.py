from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from tests.unit.toolsets.client import Client, Switch

from trunkline.errors import StartRefused
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.hosted import Toolset, toolset

BOTH = (Switch("Library"), Switch("town-archive"))


async def test_one_toolset_whose_names_stay_is_the_authors_own_object(catalog: Catalog, library: Toolset) -> None:
    assert catalog.server_for((Switch("Library"),)).server is library.server


async def test_a_toolset_with_unfit_names_is_renamed_even_alone(catalog: Catalog, archive: Toolset) -> None:
    hosted = catalog.server_for((Switch("town-archive"),))
    assert hosted.server is not archive.server
    assert "records.count" not in await Client(hosted).tools()


async def test_a_name_stays_when_another_toolset_is_switched_off_and_on(catalog: Catalog) -> None:
    both = await Client(catalog.server_for(BOTH)).tools()
    without = await Client(catalog.server_for((Switch("Library", enabled=False), Switch("town-archive")))).tools()
    assert without == [name for name in both if name in without]
    assert "town-archive_search" in without
    assert "search" not in without


async def test_a_tool_of_a_toolset_switched_off_is_unknown(catalog: Catalog) -> None:
    client = Client(catalog.server_for((Switch("Library", enabled=False), Switch("town-archive"))))
    with pytest.raises(MCPError) as refusal:
        await client.call("lend", isbn="1", reader="Ann")
    assert refusal.value.error.message == "Unknown tool: lend"


async def test_tenants_with_equal_switches_share_one_server(catalog: Catalog) -> None:
    again = (Switch("Library"), Switch("town-archive"))
    assert catalog.server_for(BOTH) is catalog.server_for(again)
    assert catalog.server_for(BOTH) is not catalog.server_for(again[::-1])


async def test_the_least_used_composition_is_forgotten_first(library: Toolset, archive: Toolset) -> None:
    async with Catalog([library, archive], keep=2) as catalog:
        first = catalog.server_for(BOTH)
        second = catalog.server_for(BOTH[::-1])
        assert catalog.server_for(BOTH) is first
        catalog.server_for(BOTH[:1])
        assert catalog.server_for(BOTH) is first
        assert catalog.server_for(BOTH[::-1]) is not second


async def test_a_tenant_without_toolsets_has_no_tools(catalog: Catalog) -> None:
    client = Client(catalog.server_for((Switch("Library", enabled=False),)))
    assert await client.tools() == []
    assert "tools" in (await client.initialize())["capabilities"]
    with pytest.raises(MCPError, match="Unknown tool: search"):
        await client.call("search", query="x")


async def test_a_toolset_that_this_worker_does_not_host_is_left_out_and_told_once(
    catalog: Catalog, library: Toolset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert catalog.server_for((Switch("gone"), Switch("Library"))).server is library.server
        catalog.server_for((Switch("Library"), Switch("gone")))
        catalog.server_for((Switch("Library"), Switch("also-gone", enabled=False)))
    assert caplog.messages == ["toolset gone is switched on for a tenant but not hosted by this worker"]


async def test_a_lifespan_runs_once_for_all_tenants(catalog: Catalog) -> None:
    alone = Client(catalog.server_for(BOTH[:1]))
    beside = Client(catalog.server_for(BOTH))
    last = Client(catalog.server_for(BOTH[::-1]))
    assert await alone.text("opening") == await beside.text("opening") == await last.text("opening") == "1"


async def test_a_lifespan_ends_with_the_catalog(library: Toolset) -> None:
    async with Catalog([library]) as catalog:
        state = catalog.server_for(BOTH[:1]).lifespan_state
        assert not state.closed
    assert state.closed


async def test_a_failing_lifespan_refuses_the_start_and_ends_the_others(library: Toolset) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def good(server: Server[Any]) -> AsyncIterator[str]:
        try:
            yield "good"
        finally:
            ended.append("good")

    @asynccontextmanager
    async def bad(server: Server[Any]) -> AsyncIterator[str]:
        raise OSError("no such file")
        yield "bad"

    toolsets = [toolset(Server("good", lifespan=good), "good"), toolset(Server("bad", lifespan=bad), "bad")]
    with pytest.raises(StartRefused, match="The toolset 'bad' did not start: its lifespan failed with OSError"):
        async with Catalog(toolsets):
            pass
    assert ended == ["good"]


async def test_tools_that_may_be_called_twice_are_known_by_their_clients_names(catalog: Catalog) -> None:
    repeatable = catalog.server_for(BOTH).repeatable
    assert {"search", "bring_back", "opening"} <= repeatable
    assert not {"lend", "town-archive_search"} & repeatable
    assert any(name.startswith("records_count_") for name in repeatable)
