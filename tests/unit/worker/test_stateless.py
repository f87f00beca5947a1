"""Requests of 2026-07-28: what they say of their client is all that is known, and what they get is private."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from mcp.server.caching import CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import InputRequiredResult, LoggingMessageNotification, LoggingMessageNotificationParams
from pydantic import SecretStr
from tests.unit.worker.fixture import FakeClient

from trunkline.envelope import Call, Caller
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.changes import Change
from trunkline.toolsets.hosted import toolset
from trunkline.worker.answers import Answer
from trunkline.worker.executor import Executor

ALONE = (ToolsetSwitch("sky", True),)
BESIDE = (ToolsetSwitch("ground", True), ToolsetSwitch("sky", True))
PREFIX = "io.modelcontextprotocol/"
META = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientInfo": {"name": "c", "version": "1"},
    f"{PREFIX}clientCapabilities": {"sampling": {}},
}


def sky() -> MCPServer[Any]:
    hints: Any = {method: CacheHint(ttl_ms=1_000, scope="public") for method in ("tools/list", "resources/read")}
    server: MCPServer[Any] = MCPServer("sky", cache_hints=hints, instructions="Look up.")

    @server.tool()
    async def who(ctx: Context) -> str:
        client, capabilities = ctx.session.client_params, ctx.client_capabilities
        assert capabilities is not None
        return f"{client.client_info.name if client else 'nobody'} {capabilities.sampling is not None}"

    @server.tool()
    async def tell(ctx: Context) -> str:
        await ctx.report_progress(1, 2)
        for level in ("debug", "error"):
            params = LoggingMessageNotificationParams(level=level, data=level)  # type: ignore[arg-type]
            await ctx.session.send_notification(LoggingMessageNotification(params=params), ctx.request_id)
        await ctx.session.send_tool_list_changed()
        return "told"

    @server.tool()
    async def ask(ctx: Context) -> str:
        await ctx.session.send_ping()
        return "asked"

    @server.tool()
    async def step(ctx: Context) -> str | InputRequiredResult:
        return InputRequiredResult(request_state="s") if ctx.request_state is None else ctx.request_state

    @server.resource("sky://moon")
    async def moon() -> str:
        return "full"

    @server.prompt()
    async def rhyme() -> str:
        return "moon"

    async def weather(place: str) -> str:
        return f"rain in {place}"

    server.add_tool(weather)
    schema = server._tool_manager.get_tool("weather").parameters  # type: ignore[union-attr]
    schema["properties"]["place"]["x-mcp-header"] = "Place"
    return server


@pytest.fixture
async def catalog() -> AsyncIterator[Catalog]:
    toolsets = [toolset(MCPServer("ground"), "ground"), toolset(sky(), "sky")]
    async with Catalog(toolsets, secret=SecretStr("s" * 32)) as catalog:
        yield catalog


@pytest.fixture(params=[ALONE, BESIDE], ids=["alone", "beside"])
def switches(request: pytest.FixtureRequest) -> tuple[ToolsetSwitch, ...]:
    return request.param


class Asking:
    """Sends stateless requests to an executor, each for itself."""

    def __init__(self, catalog: Catalog, switches: tuple[ToolsetSwitch, ...]) -> None:
        self._executor = Executor(catalog)
        self._switches = switches
        self.client = FakeClient()

    async def __call__(self, method: str, meta: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        return orjson.loads((await self.answer(method, meta, **params)).message)

    async def answer(
        self,
        method: str,
        meta: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        tools: tuple[str, ...] = ("*",),
        **params: Any,
    ) -> Answer:
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": {**META, **(meta or {})}}}
        caller = Caller("0" * 32, "acme", "key_1", ("mcp:call",), tools, None)
        context = orjson.dumps({"params": headers}) if headers else b""
        call = Call(
            "c" * 32, "0" * 32, "c" * 32, orjson.dumps(body), caller.encode(), context, 1, 2, 0, b"1-1", 1, "modern"
        )
        return await self._executor.prepare(call, caller, self._switches, self.client).run()

    async def text(self, name: str, **options: Any) -> str:
        answer = await self("tools/call", name=name, **options)
        return answer["result"]["content"][0]["text"]


@pytest.fixture
def asking(catalog: Catalog, switches: tuple[ToolsetSwitch, ...]) -> Asking:
    return Asking(catalog, switches)


async def test_a_server_is_discovered_with_what_it_will_tell_of(asking: Asking) -> None:
    result = (await asking("server/discover"))["result"]
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["resultType"] == "complete"
    assert result["cacheScope"] == "private"
    assert result["_meta"][f"{PREFIX}serverInfo"]["name"] in {"sky", "trunkline"}
    assert result["instructions"].endswith("Look up.")
    capabilities = result["capabilities"]
    assert capabilities["tools"] == capabilities["prompts"] == {"listChanged": True}
    assert capabilities["resources"] == {"listChanged": True, "subscribe": True}


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "subscriptions/listen", "sky/fall"]
)
async def test_what_this_revision_does_not_have_is_not_found(asking: Asking, method: str) -> None:
    answer = await asking(method, level="info", uri="a:b", notifications={})
    assert (answer["id"], answer["error"]["code"]) == (7, -32601)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/list", {}),
        ("prompts/list", {}),
        ("resources/list", {}),
        ("resources/templates/list", {}),
        ("resources/read", {"uri": "sky://moon"}),
    ],
)
async def test_what_a_tenant_gets_is_private_whatever_its_author_says(
    asking: Asking, method: str, params: dict[str, Any]
) -> None:
    result = (await asking(method, **params))["result"]
    assert result["cacheScope"] == "private"
    assert isinstance(result["ttlMs"], int)


async def test_an_authors_time_to_live_stays(catalog: Catalog) -> None:
    assert (await Asking(catalog, ALONE)("tools/list"))["result"]["ttlMs"] == 1_000
    assert (await Asking(catalog, ALONE)("resources/read", uri="sky://moon"))["result"]["ttlMs"] == 1_000


async def test_lists_are_the_same_each_time_and_narrowed_to_the_key(asking: Asking) -> None:
    assert await asking("tools/list") == await asking("tools/list")
    narrowed = await asking("tools/list", tools=("w*",))
    assert [tool["name"] for tool in narrowed["result"]["tools"]] == ["who", "weather"]
    refused = await asking("tools/call", tools=("w*",), name="ask")
    assert refused["error"] == {"code": -32602, "message": "Unknown tool: ask"}


async def test_a_tool_knows_its_client_by_what_the_request_says(asking: Asking) -> None:
    assert await asking.text("who") == "c True"
    assert await asking.text("who", meta={f"{PREFIX}clientInfo": None}) == "nobody True"
    assert await asking.text("who", meta={f"{PREFIX}clientCapabilities": {}}) == "c False"
    essay = {"name": "c" * 20_000, "version": "1"}
    assert (await asking.text("who", meta={f"{PREFIX}clientInfo": essay})).startswith("cccc")


async def test_progress_comes_where_it_was_asked_for_and_logs_from_the_level_that_was(asking: Asking) -> None:
    assert await asking.text("tell") == "told"
    assert asking.client.sent == []
    await asking.text("tell", meta={"progressToken": "p", f"{PREFIX}logLevel": "warning"})
    assert [message["method"] for message in asking.client.sent] == [
        "notifications/progress",
        "notifications/message",
    ]
    assert asking.client.sent[0]["params"] == {"progressToken": "p", "progress": 1, "total": 2}
    assert asking.client.sent[1]["params"]["level"] == "error"


async def test_a_change_is_told_to_the_tenant_not_to_the_caller(asking: Asking) -> None:
    await asking.text("tell")
    assert asking.client.changes == [Change("tools")]


async def test_a_tool_cannot_ask_its_client(asking: Asking) -> None:
    answer = await asking("tools/call", name="ask")
    assert "no back-channel" in answer["error"]["message"]
    assert asking.client.asked == []


async def test_a_call_goes_on_in_a_second_round(asking: Asking) -> None:
    first = await asking("tools/call", name="step")
    assert first["result"]["resultType"] == "input_required"
    assert "cacheScope" not in first["result"]
    state = first["result"]["requestState"]
    assert state.startswith("v1.")
    assert await asking.text("step", requestState=state) == "s"
    tampered = await asking("tools/call", name="step", requestState=f"{state}-TAMPERED")
    assert tampered["error"]["data"] == {"reason": "invalid_request_state"}


@pytest.mark.parametrize(
    ("headers", "arguments", "code"),
    [
        ({"mcp-param-place": "Rome"}, {"place": "Rome"}, 0),
        ({"mcp-param-place": "=?base64?UsO2bQ==?="}, {"place": "Röm"}, 0),
        ({"mcp-param-place": "Rome"}, {"place": "Oslo"}, -32020),
        ({"mcp-param-place": "=?base64?UsO2bQ?="}, {"place": "Röm"}, -32020),
        ({"mcp-param-place": "Rome"}, None, -32020),
        ({}, {"place": "Rome"}, -32020),
        ({"mcp-param-other": "x", "mcp-param-place": "Rome"}, {"place": "Rome"}, 0),
    ],
)
async def test_a_header_says_what_its_argument_says(
    asking: Asking, headers: dict[str, str], arguments: dict[str, Any] | None, code: int
) -> None:
    answer = await asking("tools/call", headers=headers, name="weather", arguments=arguments)
    assert answer.get("error", {}).get("code", 0) == code
    if not code:
        assert answer["result"]["content"][0]["text"].startswith("rain in ")


async def test_headers_of_a_tool_that_came_up_after_the_start_are_checked_too(
    catalog: Catalog, asking: Asking, switches: tuple[ToolsetSwitch, ...]
) -> None:
    tools = catalog.server_for(switches).tools
    assert tools is not None
    tools.clear()
    answer = await asking("tools/call", name="weather", arguments={"place": "Rome"})
    assert answer["error"]["code"] == -32020
    assert await asking.text("who") == "c True"


async def test_malformed_arguments_are_left_to_the_server(asking: Asking) -> None:
    answer = await asking("tools/call", name="weather", arguments=["Rome"])
    assert answer["error"]["code"] == -32602
