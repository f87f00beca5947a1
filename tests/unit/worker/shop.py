"""A server with tools of all kinds, and a bench to call them at, in any revision."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError, UnexpectedToolError
from mcp.server.mcpserver.utilities.types import Image
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ErrorData, TextContent
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr
from tests.unit.worker.fixture import FakeClient

from trunkline import current_tenant
from trunkline.envelope import Call, Caller
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog
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
