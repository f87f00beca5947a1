from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from tests.unit.toolsets.client import Client, Switch

from trunkline import CurrentTenant, current_tenant_var
from trunkline.toolsets.catalog import Catalog, gather


@pytest.fixture
async def demo() -> AsyncIterator[Client]:
    async with Catalog(gather()) as catalog:
        yield Client(catalog.server_for((Switch("demo"),)))


async def test_echo_sends_the_text_back(demo: Client) -> None:
    assert await demo.text("echo", text="hello") == "hello"


async def test_three_and_five_read_eight(demo: Client) -> None:
    result = await demo.call("add", a=3, b=5)
    assert result["content"] == [{"type": "text", "text": "8"}]
    assert result["structuredContent"] == {"result": 8}


async def test_countdown_reports_progress_and_logs(demo: Client) -> None:
    assert await demo.text("countdown", start=2, interval=0) == "counted down from 2"
    sent = demo.dispatch.sent
    assert [body for kind, body in sent if kind == "progress"] == [
        (0, 2, "2 to go"),
        (1, 2, "1 to go"),
        (2, 2, "done"),
    ]
    logged = [body for kind, body in sent if kind == "notifications/message"]
    assert [body["data"] for body in logged] == ["2", "1"]


async def test_countdown_refuses_to_run_for_ever(demo: Client) -> None:
    assert (await demo.call("countdown", start=10_000))["isError"]


async def test_whoami_tells_tenant_and_key(demo: Client) -> None:
    token = AccessToken(token="secret", client_id="key_1", scopes=["tools:call"])
    tenant = current_tenant_var.set(CurrentTenant(id="0" * 32, slug="acme", key_id="key_1"))
    user = auth_context_var.set(AuthenticatedUser(token))
    try:
        result = await demo.call("whoami")
    finally:
        auth_context_var.reset(user)
        current_tenant_var.reset(tenant)
    assert result["structuredContent"] == {
        "tenant": "acme",
        "tenant_id": "0" * 32,
        "key_id": "key_1",
        "scopes": ["tools:call"],
    }
    assert "secret" not in str(result)


async def test_whoami_is_empty_for_nobody(demo: Client) -> None:
    assert (await demo.call("whoami"))["structuredContent"]["tenant"] == ""


async def test_every_tool_has_title_description_and_hints(demo: Client) -> None:
    for tool in (await demo.request("tools/list"))["tools"]:
        assert tool["title"]
        assert tool["description"]
        assert tool["annotations"]["readOnlyHint"] is True


async def test_clients_may_set_the_log_level(demo: Client) -> None:
    assert "logging" in (await demo.initialize())["capabilities"]
    assert await demo.request("logging/setLevel", {"level": "error"}) == {}
