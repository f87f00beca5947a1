"""What a stateless request must say of itself: the SDK's own rules, and its refusals as ours.

The one module of the API process that has to do with the SDK: with `mcp.shared.inbound`, whose functions are pure.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import orjson
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least

from trunkline.api.heads import Head
from trunkline.api.http import Request
from trunkline.api.messages import Message
from trunkline.errors import HeaderMismatch, InvalidMessage, InvalidParams, UnsupportedVersion


def _load() -> ModuleType:
    """The SDK's module without its package, which would cost each API pod 0.4 s of CPU at its start and 16 MB."""
    package: Any = importlib.util.find_spec("mcp")
    loader = SourceFileLoader("trunkline.api._inbound", str(Path(package.origin).with_name("shared") / "inbound.py"))
    module = ModuleType(loader.name)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from mcp.shared import inbound as sdk
else:
    sdk = _load()

VERSION: Final = sdk.MCP_PROTOCOL_VERSION_HEADER.encode()
_ROUTING: Final = tuple(
    (name, name.encode()) for name in (sdk.MCP_PROTOCOL_VERSION_HEADER, sdk.MCP_METHOD_HEADER, sdk.MCP_NAME_HEADER)
)
_PARAM: Final = sdk.MCP_PARAM_HEADER_PREFIX.lower().encode()
_HANDSHAKE: Final = frozenset(HANDSHAKE_PROTOCOL_VERSIONS)
_ERRORS: Final[dict[int, type[InvalidMessage]]] = {
    error.code: error for error in (InvalidParams, HeaderMismatch, UnsupportedVersion)
}


def is_stateless(head: Head) -> bool:
    """Whether a request is of the era without sessions, or of a version that nobody knows."""
    version = head.headers.get(VERSION)
    return version is not None and version.decode("latin-1") not in _HANDSHAKE


def begins_with_an_id(version: str) -> bool:
    """Whether clients of this version understand an event without data at the beginning of a stream (2025-11-25)."""
    return is_version_at_least(version, "2025-11-25")


def check_version(request: Request) -> None:
    """Refuse a version that is not served.

    Raises:
        UnsupportedVersion: it is not; `data` says which are.
    """
    rejection = sdk.unsupported_protocol_version_rejection(request.header(VERSION))
    if rejection is not None:
        raise _refusal(rejection)


def check_request(request: Request, message: Message) -> None:
    """Refuse a request whose headers and body do not say the same, or not what they must.

    Raises:
        InvalidParams: the body lacks what each request says of its client.
        HeaderMismatch: a header is missing, comes twice or does not say what the body says.
        UnsupportedVersion: its version is not served.
    """
    head = request.head
    if head.names:
        _check_duplicates(head.names)
    body = {"method": message.method, "params": message.params}
    verdict = sdk.classify_inbound_request(body, headers=head.once(_routing))
    if isinstance(verdict, sdk.InboundLadderRejection):
        raise _refusal(verdict)


def _check_duplicates(names: Sequence[bytes]) -> None:
    twice = sdk.find_duplicated_routing_header((name.decode("latin-1"), "") for name in names)
    params = [name for name in names if name.startswith(_PARAM)]
    if twice is None and len(params) != len(set(params)):
        twice = next(name.decode("latin-1") for name in params if params.count(name) > 1)
    if twice is not None:
        raise HeaderMismatch(f"The header {twice} comes more than once.")


def _routing(head: Head) -> Mapping[str, str]:
    """The headers that the SDK compares with a body, by the names that it has for them."""
    return {name: head.header(raw) for name, raw in _ROUTING if raw in head.headers}


def context_of(request: Request) -> bytes:
    """What the worker is to know of a stateless request besides its body: the headers that mirror arguments."""
    return request.head.once(_context)


def _context(head: Head) -> bytes:
    params = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in head.headers.items()
        if name.startswith(_PARAM)
    }
    return orjson.dumps({"params": params}) if params else b""


def status_of(failure: int | None) -> int:
    """The HTTP status that goes with an answer: with a result, or an error of that code."""
    return 200 if failure is None else sdk.ERROR_CODE_HTTP_STATUS.get(failure, 200)


def _refusal(rejection: sdk.InboundLadderRejection) -> InvalidMessage:
    return _ERRORS[rejection.code](rejection.message, data=rejection.data)
