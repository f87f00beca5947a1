"""What a tenant has configured, as a server's handlers have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import CallToolRequestParams, CallToolResult, TextContent
from pydantic import BaseModel
from tests.unit.worker.fixture import FakeClient

from trunkline import current_config, current_configs_var
from trunkline.envelope import Call, Caller
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.hosted import toolset
from trunkline.worker.context import SessionContext
from trunkline.worker.executor import Executor

SWITCHES = (ToolsetSwitch("lowlevel", True),)
CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}


class Config(BaseModel):
    region: str


async def _call_tool(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=current_config(Config).region)])


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    server: Server[Any] = Server("lowlevel")
    server.add_request_handler("tools/call", CallToolRequestParams, _call_tool)
    async with Catalog([toolset(server, "test")]) as catalog:
        yield Executor(catalog)


async def answered(executor: Executor, *configs: BaseModel) -> dict[str, Any]:
    caller = Caller("0" * 32, "acme", "key_1", ("mcp:call",), ("*",), None)
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "where", "arguments": {}}}
    body, context = orjson.dumps(message), SessionContext("2025-06-18", CLIENT).encode()
    call = Call("c" * 32, "0" * 32, "5" * 32, body, caller.encode(), context, 1, 2, 0, b"1-1")
    made: dict[str, Any] = orjson.loads(
        (await executor.prepare(call, caller, SWITCHES, FakeClient(), configs).run()).message
    )
    return made


async def test_a_handler_has_what_the_call_began_with_and_nothing_stays(executor: Executor) -> None:
    result = (await answered(executor, Config(region="no")))["result"]
    assert result["content"][0]["text"] == "no"
    assert current_configs_var.get() == ()


async def test_a_call_begun_from_within_another_tenants_has_nothing_of_it(executor: Executor) -> None:
    reset = current_configs_var.set((Config(region="somebody else's"),))
    try:
        error = (await answered(executor))["error"]
    finally:
        current_configs_var.reset(reset)
    assert error["code"] == -32603
    assert error["message"].endswith("an administrator of the tenant has to set region.")
