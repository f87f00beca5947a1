"""What a stateless request must say of itself: the SDK's own rules, and its refusals as ours.

The one module of the API process that imports the SDK: pure functions, no server, no transport.
"""

from __future__ import annotations

from typing import Final

import orjson
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PARAM_HEADER_PREFIX,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least

from trunkline.api.http import Request
from trunkline.api.messages import Message
from trunkline.errors import HeaderMismatch, InvalidMessage, InvalidParams, UnsupportedVersion

VERSION: Final = MCP_PROTOCOL_VERSION_HEADER.encode()
_ROUTING: Final = tuple(
    (name, name.encode()) for name in (MCP_PROTOCOL_VERSION_HEADER, MCP_METHOD_HEADER, MCP_NAME_HEADER)
)
_PARAM: Final = MCP_PARAM_HEADER_PREFIX.lower().encode()
_HANDSHAKE: Final = frozenset(HANDSHAKE_PROTOCOL_VERSIONS)
_ERRORS: Final[dict[int, type[InvalidMessage]]] = {
    error.code: error for error in (InvalidParams, HeaderMismatch, UnsupportedVersion)
}


def is_stateless(request: Request) -> bool:
    """Whether a request is of the era without sessions, or of a version that nobody knows."""
    version = request.headers.get(VERSION)
    return version is not None and version.decode("latin-1") not in _HANDSHAKE


def begins_with_an_id(version: str) -> bool:
    """Whether clients of this version understand an event without data at the beginning of a stream (2025-11-25)."""
    return is_version_at_least(version, "2025-11-25")


def check_version(request: Request) -> None:
    """Refuse a version that is not served.

    Raises:
        UnsupportedVersion: it is not; `data` says which are.
    """
    rejection = unsupported_protocol_version_rejection(request.header(VERSION))
    if rejection is not None:
        raise _refusal(rejection)


def check_request(request: Request, message: Message) -> None:
    """Refuse a request whose headers and body do not say the same, or not what they must.

    Raises:
        InvalidParams: the body lacks what each request says of its client.
        HeaderMismatch: a header is missing, comes twice or does not say what the body says.
        UnsupportedVersion: its version is not served.
    """
    if len(request.headers) != len(request.scope["headers"]):
        _check_duplicates(request)
    headers = {name: request.headers[raw].decode("latin-1") for name, raw in _ROUTING if raw in request.headers}
    verdict = classify_inbound_request({"method": message.method, "params": message.params}, headers=headers)
    if isinstance(verdict, InboundLadderRejection):
        raise _refusal(verdict)


def _check_duplicates(request: Request) -> None:
    names = [name for name, _ in request.scope["headers"]]
    twice = find_duplicated_routing_header((name.decode("latin-1"), "") for name in names)
    params = [name for name in names if name.startswith(_PARAM)]
    if twice is None and len(params) != len(set(params)):
        twice = next(name.decode("latin-1") for name in params if params.count(name) > 1)
    if twice is not None:
        raise HeaderMismatch(f"The header {twice} comes more than once.")


def context_of(request: Request) -> bytes:
    """What the worker is to know of a stateless request besides its body: the headers that mirror arguments."""
    params = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in request.headers.items()
        if name.startswith(_PARAM)
    }
    return orjson.dumps({"params": params}) if params else b""


def status_of(failure: int | None) -> int:
    """The HTTP status that goes with an answer: with a result, or an error of that code."""
    return 200 if failure is None else ERROR_CODE_HTTP_STATUS.get(failure, 200)


def _refusal(rejection: InboundLadderRejection) -> InvalidMessage:
    return _ERRORS[rejection.code](rejection.message, data=rejection.data)
