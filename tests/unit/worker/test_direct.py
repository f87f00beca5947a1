"""A tool that is called directly answers what it answers through the SDK, byte for byte, and logs the same."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import pytest
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool, ToolManager
from mcp.server.mcpserver.utilities.types import Image
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, CallToolResult, ErrorData, InputRequiredResult, TextContent
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr
from tests.unit.worker.fixture import FakeClient

from trunkline import current_tenant
from trunkline.envelope import Call, Caller
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.direct import DirectTool, DirectTools
from trunkline.toolsets.hosted import toolset
from trunkline.worker.context import SessionContext
from trunkline.worker.executor import Executor

PREFIX = "io.modelcontextprotocol/"
CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
META = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientInfo": CLIENT["clientInfo"],
    f"{PREFIX}clientCapabilities": {},
}
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
ALONE = (ToolsetSwitch("workshop", True),)
BESIDE = (ToolsetSwitch("ground", True), ToolsetSwitch("workshop", True))


class Shelf(BaseModel):
    width: int
    kept: str = Field("", alias="keptAs")


class Text(str):
    __slots__ = ()


def shout(text: str) -> str:
    return text.upper()


def refuse(text: str) -> str:
    raise RuntimeError("of the validator itself")


def raising(error: Exception) -> Callable[[], Any]:
    async def fails() -> str:
        raise error

    return fails


def returning(value: object, annotation: Any = None) -> Callable[[], Any]:
    async def returns():  # type: ignore[no-untyped-def]
        return value

    if annotation is not None:
        returns.__annotations__["return"] = annotation
    return returns


async def greet(name: str, times: int = 1) -> str:
    return name * times


async def renamed(loud: Annotated[bool, Field(alias="LOUD")] = False, **others: bool) -> str:
    return f"{loud} {others}"


async def measure(shelf: Shelf, marks: list[int] | None = None) -> str:
    return f"{shelf.width} {shelf.kept} {marks}"


async def strict(name: Annotated[str, BeforeValidator(refuse)]) -> str:
    return name


async def short(name: Annotated[str, Field(max_length=2)]) -> str:
    return name


def blocking(name: str) -> str:
    return f"{name} in a thread"


async def whose() -> str:
    tenant = current_tenant()
    return tenant.slug if tenant else "nobody's"


RETURNED: dict[str, Any] = {
    "text": returning("héllo\n", str),
    "loose_text": returning("text"),
    "empty": returning("", str),
    "subclass": returning(Text("t"), str),
    "surrogate": returning("\ud800", str),
    "loose_surrogate": returning("\ud800"),
    "nothing": returning(None, type(None)),
    "number": returning(7, int),
    "share": returning(0.5, float),
    "not_text": returning(7, str),
    "list": returning(["a", "b"], list[str]),
    "dict": returning({"a": 1}, dict[str, int]),
    "model": returning(Shelf(width=2, keptAs="k"), Shelf),
    "loose_model": returning(Shelf(width=2, keptAs="k")),
    "image": returning(Image(data=b"png", format="png")),
    "block": returning(TextContent(text="block")),
    "blocks": returning([TextContent(text="block"), "text"]),
    "result": returning(CallToolResult(content=[TextContent(text="own")], is_error=True)),
    "odd_result": returning(CallToolResult(content=[], result_type="input_required")),
    "error_data": returning(ErrorData(code=5, message="an error as a result")),
    "shouted": returning("text", Annotated[str, AfterValidator(shout)]),
    "too_long": returning("text", Annotated[str, Field(max_length=2)]),
    "other_key": returning("text", Annotated[str, Field(serialization_alias="other")]),
    "either": returning("text", str | None),
}
RAISED: dict[str, Exception] = {
    "expected": ToolError("the tool's own words"),
    "expected_resource": ResourceError("a resource's own words"),
    "nested": UnexpectedToolError("Error executing tool inner"),
    "protocol": MCPError(code=-32050, message="not today", data={"when": "tomorrow"}),
    "crash": RuntimeError("hunter2"),
    "lookup": KeyError("hunter2"),
}
ARGUMENTS: list[tuple[str, Any]] = [
    ("greet", {"name": "a"}),
    ("greet", {"name": "a", "times": 3}),
    ("renamed", {"LOUD": True}),
    ("renamed", {"loud": True}),
    ("greet", {"name": "a", "times": "3"}),
    ("greet", {"name": "a", "times": "x"}),
    ("greet", {"name": '"quoted"'}),
    ("greet", {"name": 7}),
    ("greet", {}),
    ("greet", None),
    ("greet", {"name": "a", "other": 1}),
    ("measure", {"shelf": {"width": 2, "keptAs": "k"}, "marks": [1]}),
    ("measure", {"shelf": '{"width": 2}', "marks": "[1, 2]"}),
    ("measure", {"shelf": "no JSON"}),
    ("strict", {"name": "a"}),
    ("short", {"name": "abc"}),
    ("blocking", {"name": "a"}),
    ("whose", {}),
]


def workshop(**options: Any) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("workshop", version="7", **options)
    for function in (greet, renamed, measure, strict, short, blocking, whose):
        server.add_tool(function)
    for name, function in RETURNED.items():
        server.add_tool(function, name=name)
    for name, error in RAISED.items():
        server.add_tool(raising(error), name=name)
    return server


@dataclass
class Bench:
    """Calls the tools of one server, alone or beside another."""

    executor: Executor
    switches: tuple[ToolsetSwitch, ...]

    async def call(self, version: str, name: str, arguments: Any = None, **meta: Any) -> bytes:
        params: dict[str, Any] = {"name": name}
        if arguments is not None:
            params["arguments"] = arguments
        modern = version == VERSIONS[-1]
        if modern or meta:
            params["_meta"] = {**(META if modern else {}), **meta}
        context = b"" if modern else SessionContext(version, CLIENT).encode()
        caller = Caller("0" * 32, "acme", "key_1", (), ("*",), None)
        body = orjson.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})
        call = Call("c" * 32, "0" * 32, "5" * 32, body, caller.encode(), context, 1, 2, 0, b"1-1")
        call = call._replace(transport="modern" if modern else "http")
        return (await self.executor.prepare(call, caller, self.switches, FakeClient()).run()).message


@asynccontextmanager
async def bench(server: MCPServer[Any], switches: tuple[ToolsetSwitch, ...] = ALONE) -> AsyncIterator[Bench]:
    toolsets = [toolset(server, "here"), toolset(MCPServer("ground"), "there")]
    async with Catalog(toolsets, secret=SecretStr("s" * 32)) as catalog:
        yield Bench(Executor(catalog), switches)


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
