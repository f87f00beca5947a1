"""What a client carries from round to round of one call (`requestState`, 2026-07-28), so that any worker opens it.

The SDK seals it (`RequestStateBoundary`), by default under a key that only one process has.
"""

from __future__ import annotations

from collections.abc import Awaitable
from copy import copy
from typing import Any
from weakref import WeakSet

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity, authenticated_principal
from mcp_types.methods import INPUT_REQUIRED_METHODS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import SecretStr

from trunkline import current_tenant
from trunkline.settings import Root

_ephemeral: WeakSet[RequestStateSecurity] = WeakSet()
"""Policies whose keys no other process has. A policy does not tell, so each is remembered when it is made: one that
was made before this module was imported is taken for its author's choice, and opens its states in its own process
alone."""

_make_ephemeral = RequestStateSecurity.ephemeral


def _remembered(*, ttl: float = 600.0, audience: str | None = None) -> RequestStateSecurity:
    made = _make_ephemeral(ttl=ttl, audience=audience)
    _ephemeral.add(made)
    return made


RequestStateSecurity.ephemeral = staticmethod(_remembered)  # type: ignore[method-assign]


class Boundary(RequestStateBoundary):
    """The SDK's boundary, out of the way of calls that cannot have a state: those of the eras before it."""

    def __call__(  # type: ignore[override] # what it returns is only ever awaited
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> Awaitable[HandlerResult]:
        """Let such a call pass, and have the SDK look at any other."""
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS and "requestState" not in (ctx.params or ()):
            return call_next(ctx)
        return super().__call__(ctx, call_next)


def derive_keys(secret: SecretStr) -> list[bytes]:
    """The key that all workers of a deployment seal states with, derived from its root by HKDF (RFC 5869).

    Behind it are those that open states, too: of other roots, while the root is changed.
    """
    return [
        HKDF(SHA256(), 32, salt=None, info=b"trunkline request state").derive(each.get_secret_value().encode())
        for each in Root.all_of(secret)
    ]


def share_state(server: Server[Any], toolset: str, keys: list[bytes]) -> None:
    """Have a server seal states so that every worker with these keys opens them, for the same tenant and API key.

    It replaces the SDK's default, and is added where a server has no protection at all: what a client brings back is
    not to be trusted (2026-07-28, multi-round-trip requests). Keys or a codec that the author chose stay; see
    `bind_state`. That the default is one can be told only if the server was made after this module was imported.
    """
    for place, one in enumerate(server.middleware):
        if isinstance(one, RequestStateBoundary):
            chosen = one._security  # noqa: SLF001 - the only place where it is
            if chosen in _ephemeral:
                server.middleware[place] = _shared(toolset, keys, chosen.ttl, chosen.audience)
            return
    if any(server.get_request_handler(method) for method in INPUT_REQUIRED_METHODS):
        outer = sum(isinstance(one, OpenTelemetryMiddleware) for one in server.middleware[:1])
        server.middleware.insert(outer, _shared(toolset, keys))


def bind_state(server: Server[Any]) -> None:
    """Have a server bind states to the tenant and API key that they were made for, whatever seals them.

    The SDK binds them to the access token, of which a public tenant's calls have none. An author's own binding stays.
    """
    for one in server.middleware:
        if isinstance(one, RequestStateBoundary):
            chosen = one._security  # noqa: SLF001 - the only place where it is
            if chosen.bind_principal is authenticated_principal:
                bound = copy(chosen)
                bound.bind_principal = _principal
                if chosen in _ephemeral:
                    _ephemeral.add(bound)
                one._security = bound  # noqa: SLF001


def _shared(toolset: str, keys: list[bytes], ttl: float = 600.0, audience: str | None = None) -> RequestStateBoundary:
    policy = RequestStateSecurity(keys=keys, ttl=ttl, bind_principal=_principal, audience=audience)
    _ephemeral.add(policy)  # another catalog of this process may have another secret
    return Boundary(policy, default_audience=toolset)


def _principal(ctx: ServerRequestContext[Any, Any]) -> str | None:
    tenant = current_tenant()
    return authenticated_principal(ctx) if tenant is None else f"{tenant.id} {tenant.key_id}"
