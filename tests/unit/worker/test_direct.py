"""A tool that is called directly answers what it answers through the SDK, byte for byte, and logs the same."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool, ToolManager
from mcp_types import CallToolRequestParams, CallToolResult, InputRequiredResult, TextContent
from tests.unit.worker.shop import (
    ALONE,
    ARGUMENTS,
    BESIDE,
    PREFIX,
    RAISED,
    RETURNED,
    VERSIONS,
    Bench,
    bench,
    returning,
    whose,
    workshop,
)

from trunkline.toolsets.direct import DirectTool, DirectTools


@pytest.fixture(params=[ALONE, BESIDE], ids=["alone", "beside"])
async def tools(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with bench(workshop(), request.param) as found:
        yield found


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tools that were called directly."""
    names: list[str] = []
    run = DirectTool.run

    async def noted(self: DirectTool, arguments: dict[str, Any]) -> Any:
        result = await run(self, arguments)
        names.append(self.name)
        return result

    monkeypatch.setattr(DirectTool, "run", noted)
    return names


Asked = tuple[str, Any]


def go_the_sdks_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on call no tool directly."""
    monkeypatch.setattr(DirectTools, "find", lambda self, name: None)
    bench.executor._catalog._served.clear()


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_a_tool_answers_and_logs_is_the_same_either_way(
    tools: Bench, version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcp")
    asked: list[Asked] = [*ARGUMENTS, *((name, {}) for name in (*RETURNED, *RAISED))]

    async def answers() -> list[tuple[Asked, str, list[tuple[str, int, str]]]]:
        found = []
        for name, arguments in asked:
            caplog.clear()
            message = await tools.call(version, name, arguments)
            logged = [(each.name, each.levelno, each.getMessage()) for each in caplog.records]
            found.append(((name, arguments), json.dumps(json.loads(message), sort_keys=True), logged))
        return found

    ours = await answers()
    go_the_sdks_way(tools, monkeypatch)
    for mine, other in zip(ours, await answers(), strict=True):
        assert mine == other


async def test_a_text_is_written_with_its_keys_in_the_same_order(
    tools: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [await tools.call(version, "text") for version in VERSIONS[2:]]
    go_the_sdks_way(tools, monkeypatch)
    assert ours == [await tools.call(version, "text") for version in VERSIONS[2:]]


@pytest.mark.parametrize(
    ("name", "arguments"), [("text", {}), ("greet", {"name": "a"}), ("model", {}), ("blocking", {"name": "a"})]
)
async def test_most_tools_are_called_directly(tools: Bench, called: list[str], name: str, arguments: Any) -> None:
    for version in VERSIONS:
        await tools.call(version, name, arguments)
        await tools.call(version, name, arguments, progressToken="t")
    assert called == [name] * 2 * len(VERSIONS)


async def test_a_stateless_call_that_wants_log_messages_or_is_not_whole_goes_the_sdks_way(
    tools: Bench, called: list[str]
) -> None:
    assert b"result" in await tools.call(VERSIONS[-1], "text", {}, **{f"{PREFIX}logLevel": "info"})
    assert b"error" in await tools.call(VERSIONS[-1], "text", {}, **{f"{PREFIX}clientCapabilities": 7})
    assert not called


async def test_a_state_that_a_tool_gives_out_is_sealed(
    tools: Bench, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asks() -> InputRequiredResult:
        return InputRequiredResult(request_state="mine")

    async with bench(with_tool(workshop(), asks), tools.switches) as found:
        direct = orjson.loads(await found.call(VERSIONS[-1], "asks"))["result"]
        assert called == ["asks"]
        go_the_sdks_way(found, monkeypatch)
        through = orjson.loads(await found.call(VERSIONS[-1], "asks"))["result"]
    assert direct.keys() == through.keys()
    assert direct["resultType"] == "input_required"
    assert "mine" not in {direct["requestState"], through["requestState"]}


def with_tool(server: MCPServer[Any], function: Callable[..., Any]) -> MCPServer[Any]:
    server.add_tool(function)
    return server


# What is not exactly the SDK's own goes the SDK's way.


async def with_context(ctx: Context) -> str:
    return str(ctx.request_id)


class Overriding(MCPServer[Any]):
    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        return CallToolResult(content=[TextContent(text="overridden")])


class Intercepting(Extension):
    identifier = "com.example/intercepting"

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        return CallToolResult(content=[TextContent(text="intercepted")])


async def observe(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    result: Any = await call_next(ctx)
    return {**result, "content": [{"type": "text", "text": "observed"}]}


async def handle(ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
    return CallToolResult(content=[TextContent(text="handled")])


class Managing(ToolManager):
    async def call_tool(self, *args: Any, **options: Any) -> Any:
        return CallToolResult(content=[TextContent(text="managed")])


def managed() -> MCPServer[Any]:
    server = workshop()
    server._tool_manager = Managing(tools=server._tool_manager.list_tools())
    return server


def handled() -> MCPServer[Any]:
    server = workshop()
    server._lowlevel_server.add_request_handler("tools/call", CallToolRequestParams, handle)
    return server


@pytest.mark.parametrize(
    ("made", "name", "says"),
    [
        (lambda: with_tool(workshop(), with_context), "with_context", b'"7"'),
        (lambda: with_tool(Overriding("workshop"), whose), "whose", b"overridden"),
        (lambda: workshop(extensions=[Intercepting()]), "whose", b"intercepted"),
        (lambda: workshop(middleware=[observe]), "whose", b"observed"),
        (managed, "whose", b"managed"),
        (handled, "whose", b"handled"),
    ],
    ids=["context", "overridden", "intercepted", "observed", "managed", "handled"],
)
@pytest.mark.parametrize("switches", [ALONE, BESIDE], ids=["alone", "beside"])
async def test_what_an_author_has_put_in_between_is_not_passed_by(
    made: Callable[[], MCPServer[Any]], name: str, says: bytes, switches: Any, called: list[str]
) -> None:
    async with bench(made(), switches) as found:
        assert says in await found.call("2025-06-18", name, {})
    assert not called


@pytest.mark.parametrize("switches", [ALONE, BESIDE], ids=["alone", "beside"])
async def test_what_changes_while_a_server_runs_counts_at_once(switches: Any, called: list[str]) -> None:
    server = workshop()
    async with bench(server, switches) as found:

        async def says() -> bytes:
            return await found.call("2025-06-18", "whose", {})

        assert b"acme" in await says()
        tool = server._tool_manager.get_tool("whose")
        assert tool is not None
        tool.fn = returning("another function")
        assert b"another function" in await says()
        tool.fn_metadata.output_schema = None
        assert b"structuredContent" not in await says()
        server.remove_tool("whose")
        assert b"Unknown tool" in await says()
        server.add_tool(returning("added again", str), name="whose")
        assert b"added again" in await says()
        direct = len(called)
        server._lowlevel_server.middleware.append(observe)
        assert b"observed" in await says()
        server._lowlevel_server.middleware.remove(observe)
        server._lowlevel_server.add_request_handler("tools/call", CallToolRequestParams, handle)
        assert b"handled" in await says()
    assert len(called) == direct == 4


async def test_what_a_tracer_puts_around_the_sdks_functions_runs(
    monkeypatch: pytest.MonkeyPatch, called: list[str]
) -> None:
    run = Tool.run
    traced = []

    async def tracing(self: Tool, *args: Any, **options: Any) -> Any:
        traced.append(self.name)
        return await run(self, *args, **options)

    monkeypatch.setattr(Tool, "run", tracing)
    async with bench(workshop()) as found:
        await found.call("2025-06-18", "text", {})
    assert (traced, called) == (["text"], [])


async def test_a_patched_server_object_is_called(called: list[str]) -> None:
    server = workshop()
    async with bench(server) as found:

        async def call_tool(name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            return CallToolResult(content=[TextContent(text="patched")])

        server.call_tool = call_tool  # type: ignore[method-assign]
        assert b"patched" in await found.call("2025-06-18", "text", {})
    assert not called
