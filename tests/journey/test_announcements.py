"""A change that a hosted server announces reaches every session of the tenant, on every pod, and nobody else's."""

from __future__ import annotations

import pytest
from mcp.server.subscriptions import ResourceUpdated, ToolsListChanged
from tests.journey import workshop
from tests.journey.conftest import Platform
from tests.sse import connect, text_of
from tests.streamable import client, modern, request

UPDATED = ResourceUpdated("shop://hours")


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


async def test_what_a_server_announces_outside_of_any_call_reaches_who_has_it_on_once(platform: Platform) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.workshop()
    await platform.tenants.create("other")
    foreign, _ = await platform.keys.issue("other")
    listen = {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["shop://hours"]}}
    message = modern(request("l", "subscriptions/listen", listen))
    async with (
        client(first, key=platform.key) as one,
        client(second, key=platform.key) as two,
        client(second, path="/t/other/mcp", key=foreign) as strange,
        one.open("POST", message, **one.stateless(message)) as here,
        two.open("POST", message, **two.stateless(message)) as there,
        strange.open("POST", message, **strange.stateless(message)) as nowhere,
    ):
        for stream in (here, there, nowhere):
            assert (await stream.message())["method"] == "notifications/subscriptions/acknowledged"
        for event, told in ((ToolsListChanged(), "tools/list_changed"), (UPDATED, "resources/updated")) * 2:
            await workshop.mcp._subscriptions.publish(event)
            for stream in (here, there):
                assert (await stream.message())["method"] == f"notifications/{told}"
        await platform.tenants.enable("other", "demo")
        assert (await nowhere.message())["method"] == "notifications/tools/list_changed", "nothing came before"
