"""What comes of a message: the server's result, or an error that says what the specification says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    EmptyResult,
    ErrorData,
    ListToolsResult,
    SubscribeRequestParams,
    TextContent,
    Tool,
    UnsubscribeRequestParams,
)
from tests.unit.worker.fixture import FakeClient

from trunkline import current_tenant
from trunkline.envelope import Call, Caller
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.hosted import toolset
from trunkline.worker.answers import Answer, in_its_place
from trunkline.worker.context import SessionContext
from trunkline.worker.dispatch import to_json
from trunkline.worker.executor import Executor

SWITCHES = (ToolsetSwitch("fixture", True),)
CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
READY = SessionContext("2025-06-18", CLIENT).encode()
SECRET = "hunter2"
TOOLS = ("one", "two", "errs", "raises", "refuses", "nonsense", "cleans", "tenant")


async def _list_tools(ctx: ServerRequestContext[Any], params: object) -> ListToolsResult:
    return ListToolsResult(tools=[Tool(name=name, input_schema={"type": "object"}) for name in TOOLS])


async def _call_tool(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> Any:
    match params.name:
        case "raises":
            raise RuntimeError(SECRET)
        case "refuses":
            raise MCPError(code=-32050, message="not today", data={"when": "tomorrow"})
        case "nonsense":
            return ErrorData(code=-32051, message="an error as a result")
        case "cleans":
            ctx.session._connection.exit_stack.callback(_fail)
        case "tenant":
            return _text(current_tenant().slug if current_tenant() else "")
    return CallToolResult(content=[TextContent(type="text", text="done")], is_error=params.name == "errs")


async def _watch(ctx: ServerRequestContext[Any], params: SubscribeRequestParams | UnsubscribeRequestParams) -> Any:
    if params.uri == "nowhere":
        raise MCPError(code=-32602, message="there is no such thing")
    return EmptyResult()


def _fail() -> None:
    raise RuntimeError(SECRET)


def _text(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)])


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    server: Server[Any] = Server(
        "fixture",
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
        on_subscribe_resource=_watch,
        on_unsubscribe_resource=_watch,
    )
    async with Catalog([toolset(server, "here")]) as catalog:
        yield Executor(catalog)


async def run(
    executor: Executor, method: str, params: dict[str, Any] | None = None, *, answer: bool = True, **options: Any
) -> Answer:
    message = {"jsonrpc": "2.0", "method": method} | ({"id": "r1"} if answer else {}) | ({"params": params or {}})
    return await run_message(executor, message, answer=answer, **options)


async def run_message(
    executor: Executor, message: dict[str, Any], *, context: bytes = READY, tools: tuple[str, ...] = ("*",),
    answer: bool = False, client: FakeClient | None = None,
) -> Answer:  # fmt: skip
    body = orjson.dumps(message)
    caller = Caller("0" * 32, "acme", "key_1", ("mcp:call",), tools, None)
    call = Call("c" * 32, "0" * 32, "5" * 32, body, caller.encode(), context, 1, 2 if answer else 0, 0, b"1-1")

    return await executor.prepare(call, caller, SWITCHES, client or FakeClient()).run()


async def call_tool(executor: Executor, name: str, **options: Any) -> Answer:
    return await run(executor, "tools/call", {"name": name, "arguments": {}}, **options)


@pytest.mark.parametrize(
    ("tool", "outcome", "code"),
    [("one", "ok", 0), ("errs", "tool_error", 0), ("refuses", "error", -32050), ("nonsense", "error", -32051)],
)
async def test_how_a_call_ended_is_its_outcome(executor: Executor, tool: str, outcome: str, code: int) -> None:
    answer = await call_tool(executor, tool)
    message = orjson.loads(answer.message)
    assert (answer.outcome, message["id"]) == (outcome, "r1")
    assert message.get("error", {}).get("code", 0) == code
    assert not answer.context


async def test_an_error_that_a_server_raises_keeps_its_data_and_one_that_escapes_it_is_told_nothing_of(
    executor: Executor,
) -> None:
    refused = orjson.loads((await call_tool(executor, "refuses")).message)
    assert refused["error"] == {"code": -32050, "message": "not today", "data": {"when": "tomorrow"}}
    escaped = await call_tool(executor, "raises")
    assert escaped.outcome == "error"
    assert orjson.loads(escaped.message)["error"]["code"] == -32603
    assert SECRET not in escaped.message.decode()


async def test_a_clean_up_that_fails_does_not_replace_the_answer(executor: Executor) -> None:
    assert (await call_tool(executor, "cleans")).outcome == "ok"


async def test_a_key_neither_lists_nor_calls_what_its_patterns_do_not_name(executor: Executor) -> None:
    listed = orjson.loads((await run(executor, "tools/list", tools=("tw*",))).message)
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["two"]
    refused = orjson.loads((await call_tool(executor, "one", tools=("tw*",))).message)
    assert refused["error"] == {"code": -32602, "message": "Unknown tool: one"}


async def test_initialize_changes_the_sessions_context_and_keeps_its_level(executor: Executor) -> None:
    before = SessionContext(log_level="error").encode()
    answer = await run(executor, "initialize", CLIENT, context=before)
    context = SessionContext("2025-06-18", CLIENT, "error", ("tools",), formal=True)
    assert SessionContext.decode(answer.context) == context
    assert answer.context.startswith(b'{"formal":true')
    result = orjson.loads(answer.message)["result"]
    assert result["protocolVersion"] == "2025-06-18"
    assert result["capabilities"]["tools"] == {"listChanged": True}


async def test_a_session_subscribes_to_resources_within_its_bound(executor: Executor) -> None:
    client = FakeClient()
    for uri in ("a:1", "a:2"):
        await run(executor, "resources/subscribe", {"uri": uri}, client=client)
    refused = orjson.loads((await run(executor, "resources/subscribe", {"uri": "a:3"}, client=client)).message)
    assert refused["error"]["message"] == "The session has as many subscriptions as it may."
    await run(executor, "resources/unsubscribe", {"uri": "a:1"}, client=client)
    assert client.subscriptions == {"a:2"}


async def test_a_resource_that_the_server_refuses_is_not_subscribed_to(executor: Executor) -> None:
    client = FakeClient()
    await run(executor, "resources/subscribe", {"uri": "nowhere"}, client=client)
    assert client.subscriptions == set()


async def test_a_stream_of_changes_is_not_the_workers_to_serve(executor: Executor) -> None:
    answer = orjson.loads((await run(executor, "subscriptions/listen", {"notifications": {}})).message)
    assert answer["error"]["code"] == -32601


async def test_a_client_that_says_too_much_of_itself_is_refused(executor: Executor) -> None:
    client = {**CLIENT, "capabilities": {"experimental": {"essay": {"text": "x" * 20_000}}}}
    answer = await run(executor, "initialize", client, context=b"")
    assert (answer.outcome, answer.context) == ("error", b"")
    assert orjson.loads(answer.message)["error"]["code"] == -32602


@pytest.mark.parametrize("params", [None, [1], "text"])
async def test_a_response_is_dropped_whatever_it_has_for_params(executor: Executor, params: object) -> None:
    response = {"jsonrpc": "2.0", "id": 1, "result": {}, "params": params}
    assert await run_message(executor, response) == Answer(b"", "ok")


async def test_a_notification_has_no_answer_whatever_it_says(executor: Executor) -> None:
    for method in ("notifications/initialized", "notifications/unheard_of", "tools/call", ""):
        assert await run(executor, method, {"_meta": 7}, answer=False) == Answer(b"", "ok")


async def test_the_tenant_is_known_inside_a_call_and_nowhere_else(executor: Executor) -> None:
    answer = orjson.loads((await call_tool(executor, "tenant")).message)
    assert answer["result"]["content"][0]["text"] == "acme"
    assert current_tenant() is None


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_any_value_is_json_in_one_line(value: object) -> None:
    written = to_json(value)
    assert b"\n" not in written
    assert b"\r" not in written
    written.decode("utf-8")
    assert json.loads(written) == value


def test_what_json_has_no_number_for_is_null_however_the_rest_is_written() -> None:
    for other in (1, 2**70, "\ud800"):
        assert json.loads(to_json([float("nan"), float("inf"), other]), parse_constant=pytest.fail) == [
            None,
            None,
            other,
        ]


def test_an_error_is_a_response_to_its_request() -> None:
    call = Call("c" * 32, "0" * 32, "5" * 32, b'{"id":7}', b"", b"", 1, 2, 0, b"1-1")
    assert orjson.loads(in_its_place(call, "It broke.", known="unknown").message) == {
        "jsonrpc": "2.0", "id": 7, "error": {"code": -32603, "message": "It broke.", "data": {"outcome": "unknown"}},
    }  # fmt: skip
    assert in_its_place(call._replace(deadline_ms=0), "It broke.").message == b""
