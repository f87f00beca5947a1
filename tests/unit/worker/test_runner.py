"""What is spared on the way of a call makes no difference to what comes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.caching import CacheHint
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner
from mcp_types import Annotations, CallToolResult, ImageContent, TextContent
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from trunkline.worker.context import SessionContext
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
results = st.builds(
    CallToolResult,
    content=st.lists(st.builds(TextContent, text=texts), max_size=3),
    structured_content=st.none() | st.dictionaries(texts, plain, max_size=3),
    is_error=st.booleans(),
)
UNUSUAL = [
    CallToolResult(content=[TextContent(text="a", annotations=Annotations(audience=["user"]))]),
    CallToolResult(content=[TextContent(text="a", _meta={"k": 1})]),
    CallToolResult(content=[ImageContent(data="aGk=", mime_type="image/png"), TextContent(text="a")]),
    CallToolResult(content=[], _meta={"k": 1}),
    CallToolResult(content=[], structured_content={"at": datetime(2026, 1, 1, tzinfo=UTC), "share": 0.5}),
]


def _both(result: CallToolResult, version: str, server: Server[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    connection = Connection.from_envelope(version, None, None)
    return tuple(  # type: ignore[return-value]
        kind(server, connection, {})._serialize("tools/call", version, result.model_copy(deep=True))
        for kind in (Runner, ServerRunner)
    )


@pytest.mark.parametrize("version", VERSIONS)
@given(result=results)
def test_a_plain_result_is_written_as_the_sdk_writes_it(version: str, result: CallToolResult) -> None:
    ours, theirs = _both(result, version, Server("s"))
    assert ours == theirs


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("result", UNUSUAL, ids=str)
def test_an_unusual_result_is_written_as_the_sdk_writes_it(version: str, result: CallToolResult) -> None:
    server = Server("s", version="7", cache_hints={"tools/list": CacheHint(ttl_ms=5)})
    ours, theirs = _both(result, version, server)
    assert ours == theirs
    assert orjson.dumps(ours)


def test_connections_of_a_session_share_what_does_not_change_and_nothing_else() -> None:
    context = SessionContext("2025-11-25", CLIENT, "info").encode()
    one, other = restore(context, "s1", CHANNEL), restore(context, "s1", CHANNEL)
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
    restore(context, "s1", CHANNEL).initialized.set()
    assert not restore(context, "s2", CHANNEL).initialize_accepted


def test_a_stateless_request_is_introduced_by_what_it_says() -> None:
    version = MODERN_PROTOCOL_VERSIONS[-1]
    said = introduce(version, CLIENT["clientInfo"], {"sampling": {}}, CHANNEL)
    expected = Connection.from_envelope(version, CLIENT["clientInfo"], {"sampling": {}})
    assert said.client_params == expected.client_params
    assert said.client_capabilities == expected.client_capabilities
    assert said.protocol_version == version
    assert said.initialize_accepted
    assert introduce(version, None, {}, CHANNEL).client_params is None


def test_a_call_leaves_no_reference_cycle() -> None:
    runner = Runner(Server("s"), Connection.from_envelope(VERSIONS[-1], None, None), {})
    assert runner.on_request != runner.on_notify
    assert "on_request" not in vars(runner)
