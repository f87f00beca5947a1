"""Station 4, execute: one message through the tenant's `mcp` `Server`. The only module that drives the SDK.

Each call gets a `Connection` restored from the session record and a dispatch context whose notifications leave
through Redis; nothing of a session stays in the worker between two calls.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import anyio
import orjson
import structlog
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.connection import Connection
from mcp.server.runner import ServerRunner, modern_error_data
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import INVALID_PARAMS, ErrorData, InitializeRequestParams, RequestId
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from trunkline import CurrentTenant, current_tenant_var
from trunkline.envelope import Call, Caller
from trunkline.metrics import Outcome
from trunkline.toolsets.access import allowed, filter_listing
from trunkline.toolsets.catalog import Catalog, Hosted, Switch
from trunkline.toolsets.parameters import with_headers
from trunkline.worker.answers import Answer
from trunkline.worker.context import SessionContext, decode_context

log = structlog.get_logger(__name__)

NotifyClient = Callable[[bytes, bool], Awaitable[None]]
"""Sends a JSON-RPC notification to the client of a call; the flag says that it reports progress."""

LARGEST_CONTEXT = 16_384
"""Bytes of what a client may say of itself in `initialize`; most say a few hundred."""

REPEATABLE = frozenset(
    {
        "initialize", "ping", "tools/list", "resources/list", "resources/templates/list", "resources/read",
        "prompts/list", "prompts/get", "completion/complete", "logging/setLevel",
    }
)  # fmt: skip
"""Requests that change nothing which a second one would change again."""

_TRANSPORT = TransportContext(kind="sse", can_send_request=False)


class CallContext:
    """The SDK's `DispatchContext` of one call: what its server sends meanwhile goes to the client's outbox."""

    transport = _TRANSPORT
    can_send_request = False
    message_metadata: MessageMetadata = None

    def __init__(
        self, request_id: RequestId | None, params: Mapping[str, Any], session: SessionContext, notify: NotifyClient
    ) -> None:
        self.request_id = request_id
        meta = params.get("_meta")
        self._progress_token = meta.get("progressToken") if isinstance(meta, dict) else None
        self._session = session
        self._notify = notify
        self._cancel_requested: anyio.Event | None = None

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: a call that the client takes back is cancelled outright. The SDK's protocol asks for it."""
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification to the client; log messages below its level are dropped."""
        if method == "notifications/message" and not self._session.wants_log((params or {}).get("level")):
            return
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        await self._notify(to_json(message), method == "notifications/progress")

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the client asked for it (specification, basic/utilities/progress)."""
        if self._progress_token is None:
            return
        fields = {"progressToken": self._progress_token, "progress": progress, "total": total, "message": message}
        params = {key: value for key, value in fields.items() if value is not None}
        await self.notify("notifications/progress", params)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Requests to the client have no way back over this transport.

        Raises:
            NoBackChannelError: always.
        """
        raise NoBackChannelError(method)


class Executor:
    """Runs messages through the servers of a worker's catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def prepare(self, call: Call, caller: Caller, switches: tuple[Switch, ...], notify: NotifyClient) -> Execution:
        """Make one message ready to run; nothing of its server has run yet."""
        body = orjson.loads(call.body)
        session = decode_context(call.context)
        # What a client's response may have beside its result was never looked at: it is not params.
        params = body.get("params", {}) if "method" in body else {}
        context = CallContext(body.get("id") if call.wants_answer else None, params, session, notify)
        return Execution(
            call, caller, body, self._catalog.server_for(switches), context, _restore(call, session, context), session
        )


class Execution(NamedTuple):
    """One message, its server, and the connection as far as the server sees one."""

    call: Call
    caller: Caller
    body: dict[str, Any]
    """The message."""
    hosted: Hosted
    context: CallContext
    connection: Connection
    session: SessionContext

    @property
    def repeatable(self) -> bool:
        """Whether running it twice does no harm: what only reads, and tools whose authors say so.

        A toolset is the operator's, so the hints of its tools are trusted (specification, server/tools, annotations).
        """
        method = self.body.get("method")
        if method != "tools/call":
            return method in REPEATABLE
        name = self.body.get("params", {}).get("name")
        return isinstance(name, str) and name in self.hosted.repeatable

    async def run(self) -> Answer:
        """Run the message to its end.

        An error of the tool, the server or the message becomes the answer; only cancellation is raised.
        """
        caller = self.caller
        tenant = current_tenant_var.set(CurrentTenant(caller.tenant_id, caller.slug, caller.key_id))
        user = auth_context_var.set(_user(self.call.caller))
        try:
            params = self.body.get("params", {})
            if self.call.wants_answer:
                return await self._request(self.body["method"], params)
            await self._notification(self.body.get("method", ""), params)
            return Answer(b"", "ok")
        finally:
            auth_context_var.reset(user)
            current_tenant_var.reset(tenant)

    async def _request(self, method: str, params: dict[str, Any]) -> Answer:
        outcome: Outcome = "ok"
        changed = b""
        try:
            if method == "tools/call":
                await self._check_tool(params.get("name"))
            result = await self._serve(method, params)
            if method == "tools/list":
                result = filter_listing(result, self.caller.tools)
            elif method == "initialize":
                changed = self._initialized(params)
            elif method == "logging/setLevel":
                changed = self.session.with_log_level(str(params["level"])).encode()
            elif result.get("isError") is True:
                outcome = "tool_error"
            message = to_json({"jsonrpc": "2.0", "id": self.context.request_id, "result": result})
        except Exception as error:  # noqa: BLE001 - the edge of a message: whatever a server raises is its answer
            outcome = "error"
            message = error_message(self.context.request_id, modern_error_data(error))
        return Answer(message, outcome, changed)

    def _initialized(self, params: dict[str, Any]) -> bytes:
        """The session's context after `initialize`; it travels with every call, so its size is bounded."""
        context = SessionContext(self.connection.protocol_version, params, self.session.log_level).encode()
        if len(context) > LARGEST_CONTEXT:
            raise MCPError(code=INVALID_PARAMS, message=f"The params of initialize exceed {LARGEST_CONTEXT} bytes.")
        return context

    async def _notification(self, method: str, params: dict[str, Any]) -> None:
        if not method:  # a client's response to a request that no server here can have sent
            log.debug("response dropped")
            return
        await self._runner.on_notify(self.context, method, params)
        await _clean_up(self.connection)

    async def _serve(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """What the SDK's `serve_one` does, but for a cancel scope around the clean-up, a fifth of its cost."""
        try:
            return await self._runner.on_request(self.context, method, params)
        finally:
            await _clean_up(self.connection)

    @property
    def _runner(self) -> ServerRunner[Any]:
        return ServerRunner(self.hosted.server, self.connection, self.hosted.lifespan_state)

    async def _check_tool(self, name: object) -> None:
        """Refuse what does not exist or is not the key's to call (specification, server/tools, error handling).

        The SDK's `MCPServer` would answer a result that looks like a failure of the tool.

        Raises:
            MCPError: -32602, the same for both.
        """
        known, tools = isinstance(name, str) and allowed(self.caller.tools, name), self.hosted.tools
        if known and tools is not None and name not in tools:
            # It may have been added since the worker started, or be listed for this caller alone.
            cursor: str | None = ""
            while cursor is not None:
                listing = await self._serve("tools/list", {"cursor": cursor} if cursor else {})
                tools.update({tool["name"]: with_headers(tool["inputSchema"]) for tool in listing["tools"]})
                cursor = listing.get("nextCursor")
            known = name in tools
        if not known:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {name}")


async def _clean_up(connection: Connection) -> None:
    """Run what handlers have pushed for the end of the connection, which here is the end of the call."""
    try:
        await connection.exit_stack.aclose()
    except Exception:  # what a server's clean-up raises must not replace the answer
        log.exception("clean-up after a call failed")


def _restore(call: Call, session: SessionContext, context: CallContext) -> Connection:
    """The connection as `initialize` left it, on whichever worker that ran."""
    connection = Connection.for_loop(
        context, session_id=call.session, protocol_version_hint=session.version or LATEST_HANDSHAKE_VERSION
    )
    if session.client is not None:
        connection.client_params = _client_params(call.context)
        connection.initialized.set()
    return connection


@lru_cache(4096)
def _client_params(context: bytes) -> InitializeRequestParams:
    return InitializeRequestParams.model_validate(decode_context(context).client, by_name=False)


@lru_cache(4096)
def _user(encoded: bytes) -> AuthenticatedUser | None:
    """What the SDK's `get_access_token()` gives: the caller without the key, which never leaves the API pod."""
    caller = Caller.decode(encoded)
    if not caller.key_id:
        return None
    return AuthenticatedUser(
        AccessToken(
            token="",
            client_id=caller.key_id,
            scopes=list(caller.scopes),
            expires_at=caller.expires_at,
            subject=caller.tenant_id,
            claims={"tenant": caller.slug},
        )
    )


def error_message(request_id: RequestId | None, error: ErrorData) -> bytes:
    """A JSON-RPC error response."""
    return to_json(
        {"jsonrpc": "2.0", "id": request_id, "error": error.model_dump(mode="json", by_alias=True, exclude_none=True)}
    )


def to_json(value: object) -> bytes:
    """JSON in one line; what orjson cannot write (integers beyond 64 bits, lone surrogates) goes the slower way."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        # Read again with null for NaN and the infinities, which JSON has no form for; orjson does the same.
        value = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(value, separators=(",", ":")).encode()
