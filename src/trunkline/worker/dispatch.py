"""What a hosted server has of the client of a running call: the SDK's `DispatchContext`, and where it leads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import anyio
import orjson
from mcp.server.connection import allowed_log_levels
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.subscriptions import LISTEN_STREAM_METHODS
from mcp.shared.transport_context import TransportContext
from mcp_types import INVALID_REQUEST, RequestId
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least

from trunkline.envelope import Transport
from trunkline.errors import INTERNAL_ERROR, REQUEST_TIMEOUT
from trunkline.toolsets.changes import Change, change_in
from trunkline.worker.context import SessionContext

_TRANSPORTS: Mapping[Transport, TransportContext] = {
    "sse": TransportContext(kind="sse", can_send_request=True),
    "http": TransportContext(kind="streamable-http", can_send_request=True),
    "json": TransportContext(kind="streamable-http", can_send_request=False),
    "modern": TransportContext(kind="streamable-http", can_send_request=False),
}
_OF_NOTIFICATIONS = TransportContext(kind="notification", can_send_request=False)
"""A client's notification has no stream, on which it could be asked something."""

_POLLING = frozenset(each for each in HANDSHAKE_PROTOCOL_VERSIONS if is_version_at_least(each, "2025-11-25"))
"""Versions whose clients come back when the server ends a stream (2025-11-25, basic/transports)."""


class CallOver(Exception):
    """Nobody waits for the call any more: its client cannot be asked."""


class Client(Protocol):
    """The client of one running call, and whoever else is to hear of what the call changes."""

    async def notify(self, message: bytes, *, progress: bool) -> None:
        """Send a notification on the call's stream."""
        ...

    async def ask(self, write: Callable[[str], bytes], timeout: float | None) -> bytes:
        """Send the request that `write` makes with the id given, and wait for the response of the client.

        Raises:
            TimeoutError: it did not come within `timeout` or CLIENT_TIMEOUT seconds, whichever is less.
            CallOver: the call has ended.
        """
        ...

    async def hang_up(self, *, own: bool = False) -> None:
        """End the stream of the call (`own`: of the session), for the client to come back."""
        ...

    def announce(self, change: Change) -> None:
        """Tell all clients of the tenant that something has changed."""
        ...

    async def subscribe(self, uri: str) -> bool:
        """Have the session hear of changes of a resource; False where it may not."""
        ...

    async def unsubscribe(self, uri: str) -> None:
        """Have it hear of them no more."""
        ...


class CallContext:
    """The SDK's `DispatchContext` of a call, and its connection's standalone channel: both lead to the call's stream.

    Changes of lists and resources are nobody's in particular: they go to all clients of the tenant, in either era.
    """

    __slots__ = (
        "_cancel_requested", "_client", "_meta", "_session", "_way", "request_id", "transport",
    )  # fmt: skip

    def __init__(
        self,
        request_id: RequestId | None,
        params: Mapping[str, Any],
        way: Transport,
        session: SessionContext,
        client: Client,
    ) -> None:
        self.request_id = request_id
        self.transport = _OF_NOTIFICATIONS if request_id is None else _TRANSPORTS[way]
        meta = params.get("_meta")
        self._meta: dict[str, Any] = meta if isinstance(meta, dict) else {}
        self._way = way
        self._session = session
        self._client = client
        self._cancel_requested: anyio.Event | None = None

    @property
    def can_send_request(self) -> bool:
        """Whether the client can be asked something: not in the stateless era, nor if it takes its answer alone."""
        return self.transport.can_send_request

    @property
    def message_metadata(self) -> MessageMetadata:
        """How a tool ends its stream so that its client polls, where clients can (2025-11-25, basic/transports)."""
        if self._way != "http" or self._session.version not in _POLLING:
            return None
        hang_up = self._client.hang_up
        return ServerMessageMetadata(close_sse_stream=hang_up, close_standalone_sse_stream=partial(hang_up, own=True))

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: a call that the client takes back is cancelled outright. The SDK's protocol asks for it."""
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification to the client; log messages below the level that it wants are dropped."""
        if method in LISTEN_STREAM_METHODS:
            change = change_in(method, params)
            if change is not None:
                self._client.announce(change)
            return
        if method == "notifications/message" and not self._wants_log((params or {}).get("level")):
            return
        progress = method == "notifications/progress"
        if self._way == "json" and not progress:  # which prolongs the call, though nothing reaches the client
            return
        await self._client.notify(_message(method, params), progress=progress)

    def _wants_log(self, level: object) -> bool:
        if self._way == "modern":
            return level in allowed_log_levels(self._session.version, self._meta)
        return self._session.wants_log(level)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the client asked for it (specification, basic/utilities/progress)."""
        token = self._meta.get("progressToken")
        if token is None:
            return
        fields = {"progressToken": token, "progress": progress, "total": total, "message": message}
        params = {key: value for key, value in fields.items() if value is not None}
        await self.notify("notifications/progress", params)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask the client something on the stream of the call, and wait for the result.

        Raises:
            NoBackChannelError: it cannot be asked, or the call has ended.
            MCPError: the client's own error, or -32001: it did not answer in time.
        """
        if not self.can_send_request:
            raise NoBackChannelError(method)
        try:
            response = await self._client.ask(
                lambda question: _message(method, params, question), (opts or {}).get("timeout")
            )
        except TimeoutError:
            raise MCPError(REQUEST_TIMEOUT, f"The client did not answer {method} in time.") from None
        except CallOver:
            raise NoBackChannelError(method) from None
        return _result_of(response)


def _message(method: str, params: Mapping[str, Any] | None, request_id: str | None = None) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        message["id"] = request_id
    if params is not None:
        message["params"] = params
    return to_json(message)


def _result_of(response: bytes) -> dict[str, Any]:
    fields = orjson.loads(response)
    error = fields.get("error")
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        raise MCPError(
            code if isinstance(code, int) else INTERNAL_ERROR, str(message or "The client failed."), error.get("data")
        )
    result = fields.get("result")
    if not isinstance(result, dict):
        raise MCPError(INVALID_REQUEST, "The client's response has no result.")
    return result


def to_json(value: object) -> bytes:
    """JSON in one line; what orjson cannot write (integers beyond 64 bits, lone surrogates) goes the slower way."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        # Read again with null for NaN and the infinities, which JSON has no form for; orjson does the same.
        value = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(value, separators=(",", ":")).encode()
