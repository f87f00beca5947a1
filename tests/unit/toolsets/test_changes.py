"""What hosted servers announce is heard, with whom it concerns; what they declare says that it will be."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import ListToolsResult, Tool
from tests.unit.toolsets.client import Client, Switch

from trunkline import CurrentTenant, current_tenant, current_tenant_var
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.changes import Change, change_in, declare
from trunkline.toolsets.hosted import toolset

ACME = CurrentTenant("t1", "acme", "key")


def announcer(**options: Any) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("news", **options)

    @server.tool()
    async def announce(ctx: Context, what: str) -> str:
        if what.startswith("news://"):
            await ctx.notify_resource_updated(what)
        else:
            await getattr(ctx, f"notify_{what}_changed")()
        return what

    return server


class Heard:
    """What a worker hears of its catalog, and for which tenant the code ran that announced it."""

    def __init__(self, catalog: Catalog) -> None:
        self.changes: list[tuple[str, str, Change]] = []
        catalog.listen(self._listen)

    def _listen(self, toolset: str, change: Change) -> None:
        tenant = current_tenant()
        self.changes.append((toolset, tenant.id if tenant else "", change))


@pytest.mark.parametrize("options", [{}, {"subscriptions": False}, {"subscriptions": InMemorySubscriptionBus()}])
async def test_what_a_tool_announces_is_heard_for_the_tenant_that_called_it(options: dict[str, Any]) -> None:
    async with Catalog([toolset(announcer(**options), "news")]) as catalog:
        heard = Heard(catalog)
        client = Client(catalog.server_for((Switch("news"),)))
        reset = current_tenant_var.set(ACME)
        for what in ("tools", "prompts", "resources", "news://1"):
            await client.text("announce", what=what)
        current_tenant_var.reset(reset)
    assert heard.changes == [
        ("news", "t1", Change("tools")),
        ("news", "t1", Change("prompts")),
        ("news", "t1", Change("resources")),
        ("news", "t1", Change(None, "news://1")),
    ]


async def test_what_is_published_outside_of_a_call_is_heard_for_no_tenant_and_nothing_after_the_end() -> None:
    bus = InMemorySubscriptionBus()
    low: Server[Any] = Server("low", on_subscriptions_listen=ListenHandler(bus))
    async with Catalog([toolset(low, "low")]) as catalog:
        heard = Heard(catalog)
        await bus.publish(ToolsListChanged())
    await bus.publish(ToolsListChanged())
    assert heard.changes == [("low", "", Change("tools"))]


async def test_a_server_that_announces_changed_tools_is_asked_for_them_again() -> None:
    server = announcer()
    async with Catalog([toolset(server, "news"), toolset(MCPServer("other"), "other")]) as catalog:
        hosted = catalog.server_for((Switch("news"),))
        unaffected = catalog.server_for((Switch("other"), Switch("news", enabled=False)))
        assert hosted.tools == {"announce": None}
        unaffected.tools["x"] = None
        await server._subscriptions.publish(ToolsListChanged())
        assert hosted.tools == {}


def test_notifications_of_changes_are_told_from_others() -> None:
    assert change_in("notifications/prompts/list_changed", None) == Change("prompts")
    assert change_in("notifications/resources/updated", {"uri": "a:b"}) == Change(None, "a:b")
    assert change_in("notifications/message", {"level": "info"}) is None
    assert change_in("notifications/resources/updated", {}) is None


@pytest.mark.parametrize("switches", [("news",), ("other", "news")])
async def test_a_server_declares_what_it_lists(switches: tuple[str, ...]) -> None:
    async with Catalog([toolset(MCPServer("other"), "other"), toolset(announcer(), "news")]) as catalog:
        client = Client(catalog.server_for(tuple(Switch(name) for name in switches)))
        told = (await client.initialize())["capabilities"]
        discovered = (await client.stateless("server/discover", {}))["capabilities"]
    assert declare(told, stateless=False) == ["tools", "prompts", "resources"]
    assert told["resources"] == {"listChanged": True, "subscribe": False}
    assert declare(discovered, stateless=True) == ["tools", "prompts", "resources"]
    assert discovered["resources"] == {"listChanged": True, "subscribe": True}
    assert declare({"logging": {}}, stateless=True) == []


async def test_only_tools_whose_arguments_have_headers_are_looked_at_when_they_are_called() -> None:
    async def tools(ctx: Any, params: Any) -> ListToolsResult:
        named = {"type": "object", "properties": {"place": {"type": "string", "x-mcp-header": "Place"}}}
        faulty = {"type": "object", "properties": {"place": {"type": "number", "x-mcp-header": "Place"}}}
        return ListToolsResult(
            tools=[
                Tool(name="weather", input_schema=named),
                Tool(name="faulty", input_schema=faulty),
                Tool(name="plain", input_schema={"type": "object"}),
            ]
        )

    async with Catalog([toolset(Server("sky", on_list_tools=tools), "sky")]) as catalog:
        known = catalog.server_for((Switch("sky"),)).tools
    assert known is not None
    assert {name for name, schema in known.items() if schema} == {"weather"}
    assert set(known) == {"weather", "faulty", "plain"}
