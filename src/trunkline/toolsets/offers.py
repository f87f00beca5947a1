"""Asks a server what it offers, at the worker's start and for nobody in particular."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.transport_context import TransportContext
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from trunkline.toolsets.member import Member, Offer, RequestContext
from trunkline.toolsets.parameters import with_headers

logger = logging.getLogger(__name__)


class _NobodyThere:
    """The `DispatchContext` of a request that no client sent: what goes out is dropped."""

    transport = TransportContext(kind="trunkline-start", can_send_request=False)
    can_send_request = False
    request_id = 0
    message_metadata = None

    def __init__(self) -> None:
        self.cancel_requested = anyio.Event()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        return None

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        return None


async def learn(member: Member) -> Offer:
    """What the server lists for a caller without a key.

    A listing that fails is taken as empty, with a log line: what is in it is found when a tenant asks.
    """
    tools = await _listed(member, "tools/list")
    prompts = await _listed(member, "prompts/list")
    resources = await _listed(member, "resources/list")
    templates = await _listed(member, "resources/templates/list")
    return Offer(
        tools=tuple(tools),
        prompts=tuple(prompt.name for prompt in prompts),
        resources=frozenset(str(resource.uri) for resource in resources),
        templates={template.uri_template: _parsed(template.uri_template) for template in templates},
        with_headers={tool.name: schema for tool in tools if (schema := with_headers(tool.input_schema)) is not None},
    )


async def _listed(member: Member, method: str) -> list[Any]:
    try:
        return (await member.listing(_context(member, method), method)).items
    except Exception:  # the server's own code, and one that refuses strangers is in its right
        logger.warning("toolset %s does not answer %s at start", member.name, method, exc_info=True)
        return []


def _context(member: Member, method: str) -> RequestContext:
    connection = Connection.from_envelope(LATEST_HANDSHAKE_VERSION, None, None)
    return ServerRequestContext(
        session=ServerSession(_NobodyThere(), connection),
        lifespan_context=member.state,
        protocol_version=LATEST_HANDSHAKE_VERSION,
        method=method,
        params={},
        request_id=0,
    )


def _parsed(text: str) -> UriTemplate | None:
    try:
        return UriTemplate.parse(text)
    except InvalidUriTemplate:
        return None
