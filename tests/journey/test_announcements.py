"""A change that a hosted server announces reaches every session of the tenant, on every pod, and nobody else's."""

from __future__ import annotations

import pytest
from tests.journey.conftest import Platform
from tests.sse import connect, text_of


@pytest.mark.parametrize("way", ["session", "bus"])
async def test_a_change_that_a_tool_announces_reaches_all_sessions_of_its_tenant(
    platform: Platform, way: str
) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.workshop()
    await platform.tenants.create("other")
    foreign, _ = await platform.keys.issue("other")
    async with (
        connect(first, key=platform.key) as announcing,
        connect(second, key=platform.key) as hearing,
        connect(second, "/t/other/sse", key=foreign) as strange,
    ):
        for stream in (announcing, hearing, strange):
            told = await stream.initialize()
            assert told["result"]["capabilities"]["tools"]["listChanged"] is True
        await announcing.call("announce", {"what": "tools", "way": way})
        heard = await hearing.event()
        assert heard.message == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        assert (await strange.request("ping"))["result"] == {}, "nothing came before"
        assert text_of(await hearing.call("echo", {"text": "goes on"})) == "goes on"
