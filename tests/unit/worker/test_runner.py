"""What is spared on the way of a call makes no difference to what comes of it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.server.caching import CacheHint
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, modern_error_data
from mcp.shared.exceptions import MCPError
from mcp_types import (
    Annotations,
    CallToolRequestParams,
    CallToolResult,
    ClientCapabilities,
    Icon,
    ImageContent,
    TextContent,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from tests.unit.worker.fixture import FakeClient

from trunkline.worker.context import SessionContext
from trunkline.worker.dispatch import CallContext, to_json
from trunkline.worker.runner import Runner, introduce, restore

VERSIONS = (*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS)
CLIENT = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"roots": {}},
    "clientInfo": {"name": "c", "version": "1"},
}
CHANNEL: Any = object()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def nested(levels: int, kind: type) -> Any:
    value: Any = None
    for _ in range(levels):
        value = {"in": value} if kind is dict else [value]
    return value


deep = st.builds(nested, st.sampled_from([1, 63, 64, 65, 66, 200, 300]), st.sampled_from([dict, list]))
results = st.builds(
    CallToolResult,
    content=st.lists(st.builds(TextContent, text=texts), max_size=3),
    structured_content=plain | st.dictionaries(texts, plain, max_size=3) | st.dictionaries(texts, deep, max_size=1),
    is_error=st.booleans(),
    result_type=st.sampled_from(["complete", "input_required", "other", ""]),
)


def partly(made: Callable[..., Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: made(**chosen))


unvalidated = partly(
    CallToolResult.model_construct,
    content=st.lists(
        partly(
            TextContent.model_construct,
            text=texts | st.sampled_from([5, None, b"x"]),
            type=st.sampled_from(["text", "image", None, 5]),
            vendor=st.just(1),
        ),
        max_size=2,
    )
    | st.sampled_from([None, (), "text"]),
    structured_content=plain | deep,
    is_error=st.sampled_from([True, False, None, 0, "yes", "what"]),
    result_type=st.sampled_from(["complete", "input_required", None, 5]),
    meta=st.sampled_from([None, {}, 5]),
    vendor=st.just(1),
)
UNUSUAL = [
    CallToolResult(content=[TextContent(text="a", annotations=Annotations(audience=["user"]))]),
    CallToolResult(content=[TextContent(text="a", _meta={"k": 1})]),
    CallToolResult(content=[ImageContent(data="aGk=", mime_type="image/png"), TextContent(text="a")]),
    CallToolResult(content=[], _meta={"k": 1}),
    CallToolResult(content=[], structured_content={"at": datetime(2026, 1, 1, tzinfo=UTC), "share": 0.5}),
]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Without the SDK's log of what it refuses, whose tracebacks take longer than all the rest."""
    sdk = logging.getLogger("mcp.server.runner")
    sdk.disabled = True
    yield
    sdk.disabled = False


def written(result: CallToolResult, version: str, server: Server[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The wire form of a result by our runner and by the SDK's, or what is wrong with it."""
    connection = Connection.from_envelope(version, None, None)

    def write(kind: type[ServerRunner[Any]]) -> dict[str, Any]:
        try:
            return kind(server, connection, {})._serialize("tools/call", version, result.model_copy(deep=True))
        except (MCPError, ValueError) as error:
            return {"refused": str(error)}

    return write(Runner), write(ServerRunner)


@pytest.mark.parametrize("version", VERSIONS)
@given(result=results)
@settings(deadline=None, max_examples=60)
def test_a_plain_result_is_written_as_the_sdk_writes_it(version: str, result: CallToolResult) -> None:
    ours, theirs = written(result, version, Server("s"))
    assert ours == theirs


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("version", VERSIONS)
@given(result=unvalidated)
@settings(deadline=None, max_examples=60)
def test_a_result_that_was_never_validated_is_written_or_refused_as_by_the_sdk(
    version: str, result: CallToolResult
) -> None:
    ours, theirs = written(result, version, Server("s"))
    assert ours == theirs


@pytest.mark.parametrize("version", VERSIONS)
def test_content_without_an_end_is_refused(version: str) -> None:
    endless: dict[str, Any] = {}
    endless["in"] = endless
    ours, theirs = written(CallToolResult(content=[], structured_content=endless), version, Server("s"))
    assert ours == theirs
    assert "refused" in ours


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("result", UNUSUAL, ids=str)
def test_an_unusual_result_is_written_as_the_sdk_writes_it(version: str, result: CallToolResult) -> None:
    server = Server("s", version="7", cache_hints={"tools/list": CacheHint(ttl_ms=5)})
    ours, theirs = written(result, version, server)
    assert ours == theirs
    assert orjson.dumps(ours)


@pytest.mark.parametrize("icons", [None, [Icon(src="https://a.example/i.png")]])
def test_a_stateless_result_says_who_the_server_is_and_never_the_same_object_twice(icons: Any) -> None:
    server = Server("s", version="7", title="S", icons=icons)
    (ours, theirs), (again, _) = (
        written(CallToolResult(content=[TextContent(text="a")]), VERSIONS[-1], server) for _ in range(2)
    )
    assert ours == theirs
    assert ours["_meta"][f"{PREFIX}serverInfo"] is not again["_meta"][f"{PREFIX}serverInfo"]


def test_connections_of_a_session_share_what_does_not_change_and_nothing_else() -> None:
    context = SessionContext("2025-11-25", CLIENT, "info").encode()
    one, other = restore("t1", context, "s1", CHANNEL), restore("t1", context, "s1", CHANNEL)
    assert one.protocol_version == "2025-11-25"
    assert one.initialize_accepted
    assert one.client_params is other.client_params
    assert one.client_capabilities is not None
    assert one.outbound is CHANNEL
    assert one.state is not other.state
    assert one.exit_stack is not other.exit_stack
    assert vars(one).keys() == vars(Connection.for_loop(CHANNEL)).keys()


@pytest.mark.parametrize("context", [b"", SessionContext("", None, "info").encode()])
def test_a_session_that_is_not_initialized_is_not_made_so_by_another(context: bytes) -> None:
    restore("t1", context, "s1", CHANNEL).initialized.set()
    assert not restore("t1", context, "s2", CHANNEL).initialize_accepted


def test_a_stateless_request_is_introduced_by_what_it_says() -> None:
    version = MODERN_PROTOCOL_VERSIONS[-1]
    said = introduce("t1", version, CLIENT["clientInfo"], {"sampling": {}}, CHANNEL)
    expected = Connection.from_envelope(version, CLIENT["clientInfo"], {"sampling": {}})
    assert said.client_params == expected.client_params
    assert said.client_capabilities == expected.client_capabilities
    assert said.protocol_version == version
    assert said.initialize_accepted
    assert introduce("t1", version, None, {}, CHANNEL).client_params is None


def saying(length: int) -> dict[str, Any]:
    """Capabilities of about so many bytes."""
    return {"experimental": {"vendor": {"said": ["x" * length]}}}


def in_session(tenant: str, capabilities: dict[str, Any]) -> Connection:
    context = SessionContext("2025-11-25", {**CLIENT, "capabilities": capabilities}).encode()
    return restore(tenant, context, "s1", CHANNEL)


def stateless(tenant: str, capabilities: dict[str, Any]) -> Connection:
    return introduce(tenant, VERSIONS[-1], CLIENT["clientInfo"], capabilities, CHANNEL)


@pytest.mark.parametrize("met", [in_session, stateless])
def test_what_tools_see_of_a_client_is_no_other_tenants(met: Callable[..., Connection]) -> None:
    def said(tenant: str) -> list[str]:
        capabilities = met(tenant, saying(1)).client_capabilities
        assert capabilities is not None
        assert capabilities.experimental is not None
        found: list[str] = capabilities.experimental["vendor"]["said"]
        return found

    said("t1").append("changed by a tool")
    assert said("t2") == ["x"]


@pytest.mark.parametrize("met", [in_session, stateless])
def test_a_client_that_says_much_of_itself_is_not_remembered(met: Callable[..., Connection]) -> None:
    def kept() -> int:
        gc.collect()
        return sum(isinstance(each, ClientCapabilities) for each in gc.get_objects())

    before = kept()
    for number in range(10):
        met("t1", saying(2_100 + number))
    assert kept() == before
    met("t1", saying(500))
    assert kept() > before


def test_a_call_leaves_no_reference_cycle() -> None:
    runner = Runner(Server("s"), Connection.from_envelope(VERSIONS[-1], None, None), {})
    assert runner.on_request != runner.on_notify
    assert "on_request" not in vars(runner)


PREFIX = "io.modelcontextprotocol/"
anything: st.SearchStrategy[Any] = plain | st.floats() | st.text()


def seeing() -> Server[Any]:
    """A server whose tools say what they were called with."""

    async def call(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        meta = {key: value for key, value in (ctx.meta or {}).items() if not key.startswith(PREFIX)}
        seen = {"name": params.name, "arguments": params.arguments, "meta": meta}
        return CallToolResult(content=[TextContent(text="seen")], structured_content=seen)

    return Server("seeing", on_call_tool=call)


def both(version: str, served: Server[Any], params: dict[str, Any]) -> tuple[list[ServerRunner[Any]], CallContext]:
    """The SDK's runner and ours for the same message, and its context."""
    meta = params.get("_meta")
    envelope = meta if isinstance(meta, dict) else {}
    stateless = version in MODERN_PROTOCOL_VERSIONS
    context = CallContext(1, params, "modern" if stateless else "http", SessionContext(version), FakeClient())
    if stateless:
        info, capabilities = envelope.get(f"{PREFIX}clientInfo"), envelope.get(f"{PREFIX}clientCapabilities")
        connections = [introduce("t1", version, info, capabilities, context) for _ in range(2)]
    else:
        connections = [restore("t1", SessionContext(version, CLIENT).encode(), "s1", context) for _ in range(2)]
    kinds: tuple[type[ServerRunner[Any]], ...] = (ServerRunner, Runner)
    return [kind(served, each, {}) for kind, each in zip(kinds, connections, strict=True)], context


tokens = st.text(max_size=3) | st.integers(-5, 5) | st.booleans() | st.none() | st.floats() | st.just([])
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "progressToken": tokens,
        "vendor/key": anything,
        f"{PREFIX}protocolVersion": st.sampled_from(["2026-07-28", 7, None]),
        f"{PREFIX}clientInfo": st.sampled_from([CLIENT["clientInfo"], {}, None, "x"]),
        f"{PREFIX}clientCapabilities": st.sampled_from([{}, {"sampling": {}}, {"sampling": 1}, None]),
        f"{PREFIX}logLevel": st.sampled_from(["info", "loud", None]),
    },
)
whole = st.just(
    {
        f"{PREFIX}protocolVersion": "2026-07-28",
        f"{PREFIX}clientInfo": CLIENT["clientInfo"],
        f"{PREFIX}clientCapabilities": {},
    }
)
params_of_calls = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "", 7, None]),
        "arguments": st.dictionaries(st.text(), anything, max_size=2) | st.sampled_from([None, [], "x"]),
        "_meta": envelopes | whole | st.sampled_from([7, None, []]),
        "task": st.sampled_from([{}, {"ttl": 1}, 7, None]),
        "requestState": st.sampled_from(["s", 7, None]),
        "other": anything,
    },
)


async def outcome(runner: ServerRunner[Any], context: CallContext, params: dict[str, Any]) -> dict[str, Any]:
    """What a runner makes of a call, as its answer would say."""
    try:
        if isinstance(runner, Runner):
            return {"result": await runner.call_tool(context, params)}
        return {"result": await runner.on_request(context, "tools/call", params)}
    except Exception as error:  # noqa: BLE001 - compared
        refused = modern_error_data(error)
        return {"error": {"code": refused.code, "message": refused.message}}


@given(st.sampled_from(VERSIONS), params_of_calls)
@settings(deadline=None, max_examples=300)
def test_params_are_taken_and_refused_as_the_sdk_does(version: str, params: dict[str, Any]) -> None:
    async def outcomes() -> list[bytes]:
        runners, context = both(version, seeing(), params)
        return [to_json(await outcome(runner, context, params)) for runner in runners]

    theirs, ours = asyncio.run(outcomes())
    assert ours == theirs


@pytest.mark.parametrize(
    ("rewritten", "code"),
    [
        ({"params": {"name": "y", "arguments": {}}}, 0),
        ({"params": {"name": 7}}, -32602),
        ({"method": "tools/list"}, -32601),
        ({"method": "server/discover"}, -32601),
        ({"params": {"name": 7}, "method": "of/its/own"}, -32601),
    ],
)
async def test_what_middleware_makes_of_a_call_is_checked_anew(rewritten: dict[str, Any], code: int) -> None:
    async def rewrite(ctx: ServerRequestContext[Any], call_next: CallNext) -> HandlerResult:
        return await call_next(replace(ctx, **rewritten))

    served = seeing()
    served.middleware[:] = [rewrite]
    runners, context = both("2025-06-18", served, {"name": "x"})
    for found in [await outcome(runner, context, {"name": "x"}) for runner in runners]:
        assert found.get("error", {}).get("code", 0) == code
        assert code or found["result"]["structuredContent"]["name"] == "y"


async def test_a_session_that_has_not_been_initialized_calls_nothing() -> None:
    context = CallContext(1, {}, "http", SessionContext(), FakeClient())
    runner = Runner(seeing(), restore("t1", b"", "5" * 32, context), {})
    with pytest.raises(Exception, match="Invalid request parameters"):
        await runner.call_tool(context, {"name": "x"})
    with pytest.raises(Exception, match="Method not found"):
        await Runner(Server("none"), restore("t1", b"", "5" * 32, context), {}).call_tool(context, {"name": "x"})
