"""A client of hosted servers without Trunkline around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.runner import ServerRunner, serve_one
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    ClientCapabilities,
    Implementation,
    InitializeRequestParams,
)
from mcp_types.version import LATEST_MODERN_VERSION

from trunkline.toolsets.catalog import Hosted


@dataclass(frozen=True)
class Switch:
    name: str
    enabled: bool = True


@dataclass
class FakeDispatch:
    """What the executor gives the SDK, kept in memory: what went out can be read."""

    request_id: int | str | None = 1
    transport: TransportContext = field(default_factory=lambda: TransportContext(kind="test", can_send_request=False))
    can_send_request: bool = False
    message_metadata: None = None
    sent: list[tuple[str, Any]] = field(default_factory=list)
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: Any = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        self.sent.append((method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        self.sent.append(("progress", (progress, total, message)))


class Client:
    """Sends requests to a hosted server as the executor does, one `serve_one` each."""

    def __init__(self, hosted: Hosted) -> None:
        self.hosted = hosted
        self.dispatch = FakeDispatch()

    def _connection(self) -> Connection:
        params = InitializeRequestParams(
            protocol_version="2025-11-25",
            capabilities=ClientCapabilities(),
            client_info=Implementation(name="test", version="1"),
        )
        connection = Connection(self.dispatch, protocol_version="2025-11-25", client_params=params)
        connection.initialized.set()
        return connection

    async def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return await serve_one(
            self.hosted.server,
            self.dispatch,
            method,
            params,
            connection=self._connection(),
            lifespan_state=self.hosted.lifespan_state,
        )

    async def stateless(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The same as a client of 2026-07-28 asks, without a session."""
        meta = {
            PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
            CLIENT_INFO_META_KEY: {"name": "test", "version": "1"},
            CLIENT_CAPABILITIES_META_KEY: {},
        }
        return await serve_one(
            self.hosted.server,
            self.dispatch,
            method,
            {**params, "_meta": meta},
            connection=Connection.from_envelope(LATEST_MODERN_VERSION, meta[CLIENT_INFO_META_KEY], {}),
            lifespan_state=self.hosted.lifespan_state,
        )

    async def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        runner = ServerRunner(self.hosted.server, self._connection(), self.hosted.lifespan_state)
        await runner.on_notify(FakeDispatch(request_id=None), method, params)

    async def initialize(self) -> dict[str, Any]:
        info = {"name": "test", "version": "1"}
        return await self.request(
            "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        )

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return await self.request("tools/call", {"name": tool, "arguments": arguments})

    async def text(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, **arguments)
        assert not result.get("isError"), result
        return "\n".join(part["text"] for part in result["content"])

    async def tools(self) -> list[str]:
        return [tool["name"] for tool in (await self.request("tools/list"))["tools"]]
