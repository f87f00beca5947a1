"""Requests of a tool to its client: what is asked, what becomes of each kind of response, and where it cannot ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import NotificationParams, SamplingMessage, TextContent
from pydantic import BaseModel
from tests.unit.worker.fixture import FakeClient

from trunkline.envelope import Call, Caller, Transport
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.changes import Change
from trunkline.toolsets.hosted import lowlevel, toolset
from trunkline.worker.context import SessionContext
from trunkline.worker.dispatch import CallOver
from trunkline.worker.executor import Executor

# Sampling and roots are deprecated as of 2026-07-28; clients of before speak them.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

CAPABILITIES = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}


class Seat(BaseModel):
    row: int


def theatre() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("theatre")

    @server.tool()
    async def book(ctx: Context) -> str:
        answer = await ctx.elicit("Which row?", Seat)
        return f"row {answer.data.row}" if answer.action == "accept" else answer.action

    @server.tool()
    async def pay(ctx: Context) -> str:
        return (await ctx.elicit_url("Pay.", "https://pay.example", "pay-1")).action

    @server.tool()
    async def review(ctx: Context) -> str:
        said = [SamplingMessage(role="user", content=TextContent(type="text", text="How was it?"))]
        answer = await ctx.session.create_message(said, max_tokens=9, related_request_id=ctx.request_id)
        return answer.content.text if isinstance(answer.content, TextContent) else ""

    @server.tool()
    async def where(ctx: Context) -> str:
        return ", ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)

    @server.tool()
    async def knock(ctx: Context) -> str:
        try:
            await ctx.session.send_ping()
        except MCPError as error:
            return f"{error.code} {error.message}"
        return "there"

    @server.tool()
    async def able(ctx: Context) -> str:
        return str(ctx.session.can_send_request)

    @server.tool()
    async def leave(ctx: Context) -> str:
        await ctx.close_sse_stream()
        await ctx.close_standalone_sse_stream()
        await ctx.session.send_tool_list_changed()
        await ctx.session.send_resource_updated("seat://1")
        await ctx.info("left")
        return "left"

    async def roots_changed(ctx: ServerRequestContext[Any], params: NotificationParams) -> None:
        with pytest.raises(MCPError, match="no back-channel"):
            await ctx.session.list_roots()

    lowlevel(server).add_notification_handler("notifications/roots/list_changed", NotificationParams, roots_changed)
    return server


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    async with Catalog([toolset(theatre(), "theatre"), toolset(MCPServer("other"), "other")]) as catalog:
        yield Executor(catalog)


class Stage:
    """Calls a tool of the theatre as a client of one version, over one transport."""

    def __init__(self, executor: Executor, *answers: dict[str, Any] | Exception) -> None:
        self.client = FakeClient()
        self.client.answers.extend(answers)
        self._executor = executor

    async def call(self, tool: str, transport: Transport = "http", version: str = "2025-11-25") -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}
        return orjson.loads(await self.send(message, transport, version))

    async def send(self, message: dict[str, Any], transport: Transport, version: str) -> bytes:
        said = {
            "protocolVersion": version, "capabilities": CAPABILITIES, "clientInfo": {"name": "c", "version": "1"},
        }  # fmt: skip
        context = SessionContext(version, said).encode()
        caller = Caller("0" * 32, "acme", "key_1", ("mcp:call",), ("*",), None)
        deadline = 2 if "id" in message else 0
        call = Call(
            "c" * 32, "0" * 32, "5" * 32, orjson.dumps(message), caller.encode(), context, 1, deadline, 0, b"1-1",
            transport=transport,
        )  # fmt: skip
        switches = (ToolsetSwitch("other", True), ToolsetSwitch("theatre", True))
        return (await self._executor.prepare(call, caller, switches, self.client).run()).message

    async def text(self, tool: str, transport: Transport = "http", version: str = "2025-11-25") -> str:
        answer = await self.call(tool, transport, version)
        return answer["result"]["content"][0]["text"]


@pytest.mark.parametrize("transport", ["sse", "http"])
@pytest.mark.parametrize(
    ("tool", "method", "result", "text"),
    [
        ("book", "elicitation/create", {"action": "accept", "content": {"row": 7}}, "row 7"),
        ("book", "elicitation/create", {"action": "decline"}, "decline"),
        ("pay", "elicitation/create", {"action": "accept"}, "accept"),
        (
            "review", "sampling/createMessage",
            {"role": "assistant", "content": {"type": "text", "text": "Fine."}, "model": "m"}, "Fine.",
        ),
        ("where", "roots/list", {"roots": [{"uri": "file:///a"}]}, "file:///a"),
        ("knock", "ping", {}, "there"),
    ],
)  # fmt: skip
async def test_a_tool_asks_its_client(
    executor: Executor, transport: Transport, tool: str, method: str, result: dict[str, Any], text: str
) -> None:
    stage = Stage(executor, {"result": result})
    assert await stage.text(tool, transport) == text
    (question,) = stage.client.asked
    assert (question["jsonrpc"], question["id"], question["method"]) == ("2.0", "call.1.1", method)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"error": {"code": -1, "message": "User rejected sampling", "data": 1}}, "-1 User rejected sampling"),
        ({"error": {"code": "odd"}}, "-32603 The client failed."),
        ({"result": []}, "-32600 The client's response has no result."),
        ({}, "-32600 The client's response has no result."),
        (TimeoutError(), "-32001 The client did not answer ping in time."),
    ],
)
async def test_an_error_of_the_client_is_the_tools_to_handle(
    executor: Executor, answer: dict[str, Any] | Exception, text: str
) -> None:
    assert await Stage(executor, answer).text("knock") == text


async def test_a_call_that_is_over_has_no_client_to_ask(executor: Executor) -> None:
    assert (await Stage(executor, CallOver()).text("knock")).endswith(
        "no back-channel for server-initiated requests."
    )


@pytest.mark.parametrize(("transport", "able"), [("sse", True), ("http", True), ("json", False)])
async def test_a_tool_can_tell_whether_its_client_can_be_asked(
    executor: Executor, transport: Transport, able: bool
) -> None:
    stage = Stage(executor, {"result": {}})
    assert await stage.text("able", transport) == str(able)
    assert (await stage.text("knock", transport) == "there") == able
    assert len(stage.client.asked) == able


async def test_a_notification_has_no_stream_to_ask_on(executor: Executor) -> None:
    stage = Stage(executor)
    message = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    assert await stage.send(message, "http", "2025-11-25") == b""


@pytest.mark.parametrize(
    ("transport", "version", "ended"),
    [
        ("http", "2025-11-25", ["call", "session"]),
        ("http", "2025-06-18", []),
        ("sse", "2025-11-25", []),
        ("json", "2025-11-25", []),
    ],
)
async def test_a_tool_ends_its_stream_where_the_client_comes_back(
    executor: Executor, transport: Transport, version: str, ended: list[str]
) -> None:
    stage = Stage(executor)
    assert await stage.text("leave", transport, version) == "left"
    assert stage.client.ended == ended
    assert stage.client.changes == [Change("tools"), Change(None, "seat://1")]
    assert [message["method"] for message in stage.client.sent] == (
        [] if transport == "json" else ["notifications/message"]
    )
