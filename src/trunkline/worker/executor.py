"""Station 4, execute: one message through the tenant's `mcp` `Server`. The only module that drives the SDK's runner.

Each call gets a `Connection`, restored from the session record or made of what a stateless request says of its
client, and a dispatch context that leads to the client through Redis; nothing of a session stays in the worker
between two calls.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import orjson
import structlog
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.connection import Connection
from mcp.server.runner import modern_error_data
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INVALID_PARAMS,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    RequestId,
)
from mcp_types.methods import CACHEABLE_METHODS, is_input_required
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic import BaseModel

from trunkline import CurrentTenant, NotConfigured, current_configs_var, current_tenant_var
from trunkline.envelope import Call, Caller
from trunkline.errors import INTERNAL_ERROR, REFUSED
from trunkline.metrics import Outcome
from trunkline.toolsets.access import allowed, filter_listing
from trunkline.toolsets.catalog import Catalog, Hosted, Switch
from trunkline.toolsets.changes import declare
from trunkline.toolsets.direct import Text, Unfit
from trunkline.toolsets.member import MOST_PAGES, hears
from trunkline.toolsets.parameters import check_headers, with_headers
from trunkline.worker.answers import Answer
from trunkline.worker.context import SessionContext, decode_context
from trunkline.worker.dispatch import CallContext, Client, to_json
from trunkline.worker.runner import LARGEST_CONTEXT, Runner, introduce, restore, text_result, usual, vouched_for

log = structlog.get_logger(__name__)

REPEATABLE = frozenset(
    {
        "initialize", "ping", "server/discover", "tools/list", "resources/list", "resources/templates/list",
        "resources/read", "prompts/list", "prompts/get", "completion/complete", "logging/setLevel",
    }
)  # fmt: skip
"""Requests that change nothing which a second one would change again."""


class Executor:
    """Runs messages through the servers of a worker's catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def prepare(
        self,
        call: Call,
        caller: Caller,
        switches: tuple[Switch, ...],
        client: Client,
        configs: tuple[BaseModel, ...] = (),
    ) -> Execution:
        """Make one message ready to run; nothing of its server has run yet.

        `configs` is what the tenant has configured of its toolsets; the message keeps it to its end.
        """
        return Execution(call, caller, self._catalog.server_for(switches), client, configs)


class Execution:
    """One message and its server."""

    __slots__ = ("_line", "body", "call", "caller", "client", "configs", "hosted", "params", "request_id", "session")

    def __init__(
        self, call: Call, caller: Caller, hosted: Hosted, client: Client, configs: tuple[BaseModel, ...] = ()
    ) -> None:
        self.call = call
        self.caller = caller
        self.hosted = hosted
        self.client = client
        self.configs = configs
        body: dict[str, Any] = orjson.loads(call.body)
        self.body = body
        # What a client's response may have beside its result was never looked at: it is not params.
        self.params: dict[str, Any] = body.get("params", {}) if "method" in body else {}
        self.request_id: RequestId | None = body.get("id") if call.wants_answer else None
        if call.transport == "modern":
            version = _envelope(self.params).get(PROTOCOL_VERSION_META_KEY, LATEST_MODERN_VERSION)
            self.session = _stateless(version)
        else:
            self.session = decode_context(call.context)
        self._line: Line | None = None

    @property
    def repeatable(self) -> bool:
        """Whether running it twice does no harm: what only reads, and tools whose authors say so.

        A toolset is the operator's, so the hints of its tools are trusted (specification, server/tools, annotations).
        """
        method = self.body.get("method")
        if method != "tools/call":
            return method in REPEATABLE
        name = self.params.get("name")
        return isinstance(name, str) and name in self.hosted.repeatable

    async def run(self) -> Answer:
        """Run the message to its end.

        An error of the tool, the server or the message becomes the answer; only cancellation is raised.
        """
        who, token = _identity(self.call.caller)
        tenant, user = current_tenant_var.set(who), auth_context_var.set(token)
        # Set even to nothing: the task may have been begun from within a call of another tenant that lent its slot.
        configured = current_configs_var.set(self.configs)
        try:
            if self.call.wants_answer:
                return await self._request(self.body["method"], self.params)
            await self._notification(self.body.get("method", ""), self.params)
            return Answer(b"", "ok")
        finally:
            current_configs_var.reset(configured)
            auth_context_var.reset(user)
            current_tenant_var.reset(tenant)

    async def _request(self, method: str, params: dict[str, Any]) -> Answer:
        outcome: Outcome = "ok"
        changed = b""
        try:
            if method == "tools/call":
                result = await self._call_tool(params)
                if result.get("isError") is True:
                    outcome = "tool_error"
            elif method == "subscriptions/listen":  # the pod's that holds the stream; a server's own knows one worker
                raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)
            else:
                result = await self._serve(method, params)
                result, changed = await self._settle(method, params, result)
            message = to_json({"jsonrpc": "2.0", "id": self.request_id, "result": result})
        except Exception as error:  # noqa: BLE001 - the edge of a message: whatever a server raises is its answer
            outcome = "error"
            message = error_message(self.request_id, _error_data(error))
        return Answer(message, outcome, changed)

    async def _settle(
        self, method: str, params: dict[str, Any], result: dict[str, Any]
    ) -> tuple[dict[str, Any], bytes]:
        """Do what is the platform's part; the result as the client gets it, and the session's new context if any."""
        changed = b""
        match method:
            case "tools/list":
                result = filter_listing(result, self.caller.tools)
            case "initialize":
                changed = self._initialized(params, declare(result.get("capabilities", {}), stateless=False))
            case "server/discover":
                declare(result.get("capabilities", {}), stateless=True)
            case "logging/setLevel":
                changed = self.session.with_log_level(str(params["level"])).encode()
            case "resources/subscribe":
                if not await self.client.subscribe(params["uri"]):
                    raise MCPError(code=REFUSED, message="The session has as many subscriptions as it may.")
            case "resources/unsubscribe":
                await self.client.unsubscribe(params["uri"])
        if self.call.transport == "modern" and method in CACHEABLE_METHODS and not is_input_required(result):
            result["cacheScope"] = "private"  # whatever its author thinks: it is for this tenant and key
        return result, changed

    def _initialized(self, params: dict[str, Any], lists: list[Any]) -> bytes:
        """The session's context after `initialize`; it travels with every call, so its size is bounded."""
        version = self._connected.connection.protocol_version
        formal = not hears(self.hosted.server, "notifications/initialized")
        context = SessionContext(version, params, self.session.log_level, tuple(lists), formal).encode()
        if len(context) > LARGEST_CONTEXT:
            raise MCPError(code=INVALID_PARAMS, message=f"The params of initialize exceed {LARGEST_CONTEXT} bytes.")
        return context

    async def _notification(self, method: str, params: dict[str, Any]) -> None:
        if not method:  # a client's response to a request that no server here can have sent
            log.debug("response dropped")
            return
        line = self._connected
        await line.runner.on_notify(line.context, method, params)
        await _clean_up(line.connection)

    async def _serve(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """What the SDK's `serve_one` does, but for a cancel scope around the clean-up, a fifth of its cost."""
        line = self._connected
        try:
            return await line.runner.on_request(line.context, method, params)
        finally:
            await _clean_up(line.connection)

    async def _call_tool(self, params: dict[str, Any]) -> dict[str, Any]:
        """Call a tool, directly if that comes to the same."""
        name, tools = params.get("name"), self.hosted.tools
        if type(name) is not str or tools is None or name not in tools or not allowed(self.caller.tools, name):
            await self._look_for(name, params)
        if self.call.transport == "modern":
            self._check_headers(params)
        tool = self.hosted.direct(params["name"]) if self._is_settled(params) else None
        if tool is not None:
            try:
                result = await tool.run(params.get("arguments") or {})
            except Unfit:
                pass  # nothing has run
            else:
                if isinstance(result, Text):
                    return text_result(self.hosted.server, self.session.version, result)
                return await self._connected.runner.finish(tool, params, result)
        line = self._connected
        try:
            return await line.runner.call_tool(line.context, params)
        finally:
            await _clean_up(line.connection)

    def _is_settled(self, params: dict[str, Any]) -> bool:
        """Whether nothing in a tool's params but its arguments is left to check, and its client was introduced."""
        if not usual(params):
            return False
        if self.call.transport != "modern":
            return self.session.client is not None
        said = _envelope(params)
        client = said.get(CLIENT_INFO_META_KEY), said.get(CLIENT_CAPABILITIES_META_KEY)
        return LOG_LEVEL_META_KEY not in said and vouched_for(self.call.tenant, self.session.version, *client)

    @property
    def _connected(self) -> Line:
        """What the SDK needs of the message's client; most calls of tools do not."""
        if self._line is None:
            call, session = self.call, self.session
            context = CallContext(self.request_id, self.params, call.transport, session, self.client)
            if call.transport == "modern":
                said = _envelope(self.params)
                client = said.get(CLIENT_INFO_META_KEY), said.get(CLIENT_CAPABILITIES_META_KEY)
                connection = introduce(call.tenant, session.version, *client, context)
            else:
                connection = restore(call.tenant, call.context, call.session, context)
            runner = Runner(self.hosted.server, connection, self.hosted.lifespan_state)
            self._line = Line(context, connection, runner)
        return self._line

    async def _look_for(self, name: object, params: dict[str, Any]) -> None:
        """Refuse what does not exist or is not the key's to call (specification, server/tools, error handling).

        The SDK's `MCPServer` would answer a result that looks like a failure of the tool.

        Raises:
            MCPError: -32602, the same for both.
        """
        tools = self.hosted.tools
        known = isinstance(name, str) and allowed(self.caller.tools, name)
        if known and tools is not None and name not in tools:
            await self._list_tools(params)
            known = name in tools
        if not known:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {name}")

    def _check_headers(self, params: dict[str, Any]) -> None:
        """Compare what a stateless request says twice.

        Raises:
            MCPError: -32020, a header says something else than its argument.
        """
        schema = (self.hosted.tools or {}).get(params["name"])
        if schema is not None:
            headers = orjson.loads(self.call.context)["params"] if self.call.context else {}
            check_headers(schema, params.get("arguments"), headers)

    async def _list_tools(self, params: dict[str, Any]) -> None:
        """Learn what is listed: a tool may have been added since the worker started, or be for this caller alone."""
        tools = self.hosted.tools
        meta = {"_meta": params["_meta"]} if self.call.transport == "modern" else {}
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            listing = await self._serve("tools/list", meta if cursor is None else {**meta, "cursor": cursor})
            if tools is not None:
                tools.update({tool["name"]: with_headers(tool["inputSchema"]) for tool in listing["tools"]})
            cursor = listing.get("nextCursor")
            if cursor is None:
                break


class Line(NamedTuple):
    """What leads from a server to the client of a message, as far as it sees one."""

    context: CallContext
    connection: Connection
    runner: Runner


async def _clean_up(connection: Connection) -> None:
    """Run what handlers have pushed for the end of the connection, which here is the end of the call."""
    if not connection.exit_stack._exit_callbacks:  # type: ignore[attr-defined] # noqa: SLF001 - an await that is spared
        return
    try:
        await connection.exit_stack.aclose()
    except Exception:  # what a server's clean-up raises must not replace the answer
        log.exception("clean-up after a call failed")


_stateless = lru_cache(16)(SessionContext)
"""All that is settled of a stateless request: its revision."""


def _envelope(params: dict[str, Any]) -> dict[str, Any]:
    """What a stateless request says of itself, as its API pod has checked; a notification may say nothing."""
    meta = params.get("_meta")
    return meta if isinstance(meta, dict) else {}


@lru_cache(4096)
def _identity(encoded: bytes) -> tuple[CurrentTenant, AuthenticatedUser | None]:
    """What `current_tenant()` and the SDK's `get_access_token()` give; the key itself never leaves the API pod."""
    caller = Caller.decode(encoded)
    tenant = CurrentTenant(caller.tenant_id, caller.slug, caller.key_id)
    if not caller.key_id:
        return tenant, None
    return tenant, AuthenticatedUser(
        AccessToken(
            token="",
            client_id=caller.key_id,
            scopes=list(caller.scopes),
            expires_at=caller.expires_at,
            subject=caller.tenant_id,
            claims={"tenant": caller.slug},
        )
    )


def _error_data(error: Exception) -> ErrorData:
    if isinstance(error, NotConfigured):  # its sentence is for clients, other than those of exceptions in general
        return ErrorData(code=INTERNAL_ERROR, message=str(error))
    return modern_error_data(error)


def error_message(request_id: RequestId | None, error: ErrorData) -> bytes:
    """A JSON-RPC error response."""
    return to_json(
        {"jsonrpc": "2.0", "id": request_id, "error": error.model_dump(mode="json", by_alias=True, exclude_none=True)}
    )
