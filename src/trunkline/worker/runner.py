"""The SDK's kernel for one call, with what a small `tools/call` need not pay for: the same results, a third cheaper.

docs/decisions/0005-calling-the-sdk.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import lru_cache, partial
from typing import Any

import orjson
from mcp.server.connection import Connection
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, _dump_result, _extract_meta
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INVALID_PARAMS,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
    CallToolResult,
    ErrorData,
    InitializeRequestParams,
    InitializeResult,
    InputRequiredResult,
    TextContent,
)
from mcp_types.methods import SPEC_CLIENT_METHODS, validate_client_request
from mcp_types.version import LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS, is_version_at_least

from trunkline.toolsets.direct import DirectTool, Text
from trunkline.worker.context import LARGEST_KNOWN, MOST_KNOWN, SessionContext, decode_context
from trunkline.worker.dispatch import CallContext

LARGEST_CONTEXT = 16_384
"""Bytes of what a client may say of itself; most say a few hundred."""

_STRUCTURED_SINCE = "2025-06-18"
"""The first revision whose results of tools have structured content."""


_greetings: dict[tuple[str, bytes], bytes] = {}
"""Results of `initialize` as JSON, by revision and what the SDK made: a server says the same to all its clients."""

_DEEPEST = 64
"""Levels of structured content that are looked at here; what goes deeper, or on for ever, is for the SDK to judge."""


class Runner(ServerRunner[Any]):
    """The SDK's `ServerRunner` for a connection of one call."""

    # The SDK's cached properties would take a lock each, and tie a reference cycle that keeps the call until the
    # collector comes.
    on_request = ServerRunner._on_request  # noqa: SLF001
    on_notify = ServerRunner._on_notify  # noqa: SLF001

    async def call_tool(self, context: CallContext, params: Mapping[str, Any]) -> dict[str, Any]:
        """`on_request` of a `tools/call`, whose params are checked once where the SDK checks them twice."""
        version = self.connection.protocol_version
        if not usual(params) or (version in MODERN_PROTOCOL_VERSIONS and not self._vouched_for(params)):
            return await self.on_request(context, "tools/call", params)
        ctx = self._make_context(context, "tools/call", params, _extract_meta(params), version)
        return _dump_result(await self._compose_server_middleware(partial(self._handle, params))(ctx))

    def _vouched_for(self, params: Mapping[str, Any]) -> bool:
        vouched: bool = getattr(self.connection, "vouched", False)
        return vouched and LOG_LEVEL_META_KEY not in params.get("_meta", ())

    async def finish(self, tool: DirectTool, params: Mapping[str, Any], result: HandlerResult) -> dict[str, Any]:
        """The wire form of what a tool has returned that was called directly."""
        version = self.connection.protocol_version
        if isinstance(result, InputRequiredResult):  # which the tool's own server seals
            raw = {**params, "name": tool.name}
            context: Any = self.connection.outbound
            ctx = self._make_context(context, "tools/call", raw, _extract_meta(params), version)

            async def given(_: ServerRequestContext[Any, Any]) -> HandlerResult:
                return result

            own = Runner(tool.server, self.connection, self.lifespan_state)
            result = await own._compose_server_middleware(given)(ctx)
        return self._serialize("tools/call", version, result)

    async def _handle(self, checked: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
        """What the SDK does for a request inside the middleware, which may have put something else in its place."""
        method, params, version = ctx.method, ctx.params, ctx.protocol_version
        if params is not checked or method != "tools/call":
            _check(method, version, params)
        entry = self.server.get_request_handler(method)
        if entry is None:
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)
        if not self.connection.initialize_accepted:
            raise MCPError(code=INVALID_PARAMS, message="Invalid request parameters", data="")
        result = await entry.handler(ctx, entry.params_type.model_validate(params or {}, by_name=False))
        if isinstance(result, ErrorData):
            raise MCPError.from_error_data(result)
        return self._serialize(method, version, result)

    def _stamp_server_info(self, version: str, result: dict[str, Any]) -> dict[str, Any]:
        """The SDK's stamp, which copies deeply what seldom has any depth."""
        if version not in MODERN_PROTOCOL_VERSIONS or "_meta" in result:
            return super()._stamp_server_info(version, result)
        result["_meta"] = _stamp(self.server)
        return result

    def _serialize(self, method: str, version: str, result: HandlerResult) -> dict[str, Any]:
        """The wire form of a result; that of plain text needs no validation, being valid by construction."""
        if type(result) is InitializeResult:  # some clients initialize for every call
            said = version, result.model_dump_json().encode()
            known = _greetings.get(said)
            if known is None:
                known = orjson.dumps(super()._serialize(method, version, result))
                if len(_greetings) >= MOST_KNOWN:
                    _greetings.clear()
                _greetings[said] = known
            greeting: dict[str, Any] = orjson.loads(known)
            return greeting
        if method != "tools/call" or type(result) is not CallToolResult or method in self.server.cache_hints:
            return super()._serialize(method, version, result)
        plain = _plain(result, version)
        if plain is None:
            return super()._serialize(method, version, result)
        return self._stamp_server_info(version, plain)


def _stamp(server: Server[Any]) -> dict[str, Any]:
    source = server._server_info_stamp_source  # noqa: SLF001
    return {SERVER_INFO_META_KEY: server.server_info_stamp if "icons" in source else dict(source)}


def text_result(server: Server[Any], version: str, result: Text) -> dict[str, Any]:
    """The wire form of one text, valid by construction."""
    wire: dict[str, Any] = {"content": [{"text": result.text, "type": "text"}], "isError": False}
    modern = version in MODERN_PROTOCOL_VERSIONS
    if modern:
        wire["resultType"] = "complete"
    if result.structured is not None:
        wire["structuredContent"] = result.structured
    if modern:
        wire["_meta"] = _stamp(server)
    return wire


def usual(params: Mapping[str, Any]) -> bool:
    """Whether the handler's own check says all that the one by the revision's schema would."""
    rest = len(params) - ("name" in params) - ("arguments" in params)
    if rest:
        meta = params.get("_meta")
        if rest > 1 or type(meta) is not dict or type(meta.get("progressToken", "")) not in {str, int}:
            return False
    return type(params.get("name")) is str and type(params.get("arguments", params)) is dict


def _check(method: str, version: str, params: Mapping[str, Any] | None) -> None:
    if method in SPEC_CLIENT_METHODS:
        try:
            validate_client_request(method, version, params)
        except KeyError:
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method) from None


def _plain(result: CallToolResult, version: str) -> dict[str, Any] | None:
    """Text, with structured content that is JSON already, in the order of the schema; None for anything beyond.

    A result may have been made without validation, and may be invalid: that is for the SDK to say.
    """
    if result.meta is not None or result.model_extra or result.result_type != "complete":
        return None
    content = _texts(getattr(result, "content", None))
    if content is None or type(result.is_error) is not bool or not _has_structure(version):
        return None
    wire: dict[str, Any] = {"content": content, "isError": result.is_error}
    modern = version in MODERN_PROTOCOL_VERSIONS
    if modern:
        wire["resultType"] = "complete"
    structured = result.structured_content
    if structured is not None:
        if not (modern or type(structured) is dict) or not _is_json(structured, _DEEPEST):
            return None
        wire["structuredContent"] = structured
    return wire


def _texts(blocks: object) -> list[dict[str, str]] | None:
    if type(blocks) is not list:
        return None
    content = []
    for block in blocks:
        if type(block) is not TextContent or block.annotations is not None or block.meta is not None:
            return None
        text = getattr(block, "text", None)
        if type(text) is not str or block.type != "text":
            return None
        content.append({"text": text, "type": "text"})
    return content


@lru_cache(16)
def _has_structure(version: str) -> bool:
    return version in MODERN_PROTOCOL_VERSIONS or is_version_at_least(version, _STRUCTURED_SINCE)


def _is_json(value: object, levels: int) -> bool:
    kind = type(value)
    if kind is dict:
        return levels > 0 and all(
            type(key) is str and _is_json(each, levels - 1)
            for key, each in value.items()  # type: ignore[attr-defined]
        )
    if kind is list:
        return levels > 0 and all(_is_json(each, levels - 1) for each in value)  # type: ignore[attr-defined]
    return value is None or kind is str or kind is int or kind is bool


def restore(tenant: str, context: bytes, session_id: str, channel: CallContext) -> Connection:
    """The connection of a session as `initialize` left it, on whichever worker that ran.

    Args:
        tenant: The tenant's id; what servers see of a client is never shared between tenants.
        context: What the session negotiated, as it travels with each call.
        session_id: The session's id.
        channel: Where what is sent to the client goes.
    """
    # Before `initialize` a connection may change in what is shared afterwards.
    known = len(context) <= LARGEST_KNOWN and decode_context(context).client is not None
    template = (_of_session if known else _of_session.__wrapped__)(tenant, context)
    return _connection(template, session_id, channel)


def introduce(tenant: str, version: str, info: object, capabilities: object, channel: CallContext) -> Connection:
    """The connection of a stateless request, by what its `_meta` says of the client; see `restore`."""
    return _connection(_introduced(tenant, version, info, capabilities), None, channel)


def vouched_for(tenant: str, version: str, info: object, capabilities: object) -> bool:
    """Whether what a stateless request says of its client is as the revision wants it."""
    vouched: bool = _introduced(tenant, version, info, capabilities)["vouched"]
    return vouched


def _introduced(tenant: str, version: str, info: object, capabilities: object) -> dict[str, Any]:
    said = orjson.dumps([info, capabilities])
    return (_of_request if len(said) <= LARGEST_KNOWN else _of_request.__wrapped__)(tenant, version, said)


def _connection(template: dict[str, Any], session_id: str | None, channel: CallContext) -> Connection:
    """A connection like the template; what may change in it is its own."""
    connection = Connection.__new__(Connection)
    connection.__dict__.update(template)
    connection.outbound = channel
    connection.session_id = session_id
    connection.state = {}
    connection.exit_stack = AsyncExitStack()
    return connection


@lru_cache(MOST_KNOWN)
def _of_session(_tenant: str, context: bytes) -> dict[str, Any]:
    session = SessionContext.decode(context)  # for this tenant alone
    connection = Connection.for_loop(
        _NOWHERE, session_id=None, protocol_version_hint=session.version or LATEST_HANDSHAKE_VERSION
    )
    if session.client is not None:
        connection.client_params = InitializeRequestParams.model_validate(session.client, by_name=False)
        connection.initialized.set()  # for good, so all its calls may have this one
    return vars(connection)


@lru_cache(MOST_KNOWN)
def _of_request(_tenant: str, version: str, said: bytes) -> dict[str, Any]:
    info, capabilities = orjson.loads(said)
    envelope = {PROTOCOL_VERSION_META_KEY: version, CLIENT_CAPABILITIES_META_KEY: capabilities}
    if info is not None:
        envelope[CLIENT_INFO_META_KEY] = info
    try:
        validate_client_request("server/discover", version, {"_meta": envelope})
        vouched = True
    except (ValueError, KeyError):
        vouched = False
    return {**vars(Connection.from_envelope(version, info, capabilities)), "vouched": vouched}


_NOWHERE: Any = None
"""The channel of a template: each connection made like it has one of its own."""
