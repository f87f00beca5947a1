"""One live server among those that a worker hosts: its state, what it offered at start, and how to ask it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.caching import apply_cache_hint
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    METHOD_NOT_FOUND,
    CacheableResult,
    ErrorData,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
)
from mcp_types.methods import is_input_required
from pydantic import BaseModel

from trunkline.toolsets.direct import DirectTools
from trunkline.toolsets.parameters import InputSchema

RequestContext = ServerRequestContext[Any, Any]

MOST_PAGES = 1_000
"""Pages of one listing that are read; a server that never stops handing out cursors must not hold a worker."""

_Page = ListToolsResult | ListPromptsResult | ListResourcesResult | ListResourceTemplatesResult

_LISTINGS: dict[str, tuple[type[_Page], str]] = {
    "tools/list": (ListToolsResult, "tools"),
    "prompts/list": (ListPromptsResult, "prompts"),
    "resources/list": (ListResourcesResult, "resources"),
    "resources/templates/list": (ListResourceTemplatesResult, "resource_templates"),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server listed when its worker started."""

    tools: tuple[Tool, ...] = ()
    prompts: tuple[str, ...] = ()
    resources: frozenset[str] = frozenset()
    templates: Mapping[str, UriTemplate | None] = field(default_factory=dict)
    """By their text; None for one that cannot be matched."""
    with_headers: Mapping[str, InputSchema] = field(default_factory=dict)
    """By name, the schemas of those tools whose arguments have headers, too."""

    def has(self, uri: str) -> bool:
        """Whether this URI was listed, or follows a template that was (or is that template itself)."""
        return (
            uri in self.resources
            or uri in self.templates
            or any(template is not None and template.match(uri) is not None for template in self.templates.values())
        )


class Listing(NamedTuple):
    """Every page of one of the four listings, in the server's order."""

    items: list[Any]
    ttl_ms: int = 0
    """Milliseconds for which a client may keep it: the least of its pages."""


@dataclass(slots=True)
class Member:
    """A server whose lifespan has begun."""

    name: str
    server: Server[Any]
    state: Any
    """What its lifespan yielded."""
    offer: Offer = field(default_factory=Offer)
    direct: DirectTools = field(init=False)
    """Its tools that may be called with nothing around them."""

    def __post_init__(self) -> None:
        self.direct = DirectTools(self.server)

    def serves(self, method: str) -> bool:
        """Whether it has a handler for this request."""
        return self.server.get_request_handler(method) is not None

    async def ask(
        self, ctx: RequestContext, method: str, params: BaseModel, raw: Mapping[str, Any] | None
    ) -> HandlerResult:
        """Run the server's own handler inside its own middleware, with its own lifespan state.

        `params` and `raw` are the same parameters, parsed and as on the wire. OpenTelemetry is left out: the server
        that asks has opened the span already.

        Raises:
            MCPError: the handler's own, or -32601 where there is no handler.
            pydantic.ValidationError: the handler's parameter type refuses the parameters.
            Exception: whatever else the handler raises.
        """
        middleware = self._middleware()
        # Authors' middleware sees the wire form, as under the SDK's runner; the SDK's own takes either.
        wire = any(not isinstance(one, RequestStateBoundary) for one in middleware)
        call: CallNext = partial(self._answer, params, raw, wire)
        return await _wrap(middleware, call)(
            replace(ctx, method=method, params=raw, lifespan_context=self.state),
        )

    async def _answer(
        self, params: BaseModel, raw: Mapping[str, Any] | None, wire: bool, ctx: RequestContext
    ) -> HandlerResult:
        entry = self.server.get_request_handler(ctx.method)
        if entry is None:
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=ctx.method)
        if ctx.params is not raw or not isinstance(params, entry.params_type):
            params = entry.params_type.model_validate(ctx.params or {}, by_name=False)
        result = await entry.handler(ctx, params)
        if isinstance(result, ErrorData):
            raise MCPError.from_error_data(result)
        hint = self.server.cache_hints.get(ctx.method)
        if hint is not None and isinstance(result, CacheableResult):
            result = apply_cache_hint(result, hint)
        elif hint is not None and isinstance(result, Mapping) and not is_input_required(result):
            result = {"ttlMs": hint.ttl_ms, "cacheScope": hint.scope, **result}
        if wire and isinstance(result, BaseModel):
            return result.model_dump(by_alias=True, mode="json", exclude_none=True)
        return result

    async def tell(self, ctx: RequestContext, method: str) -> None:
        """Hand a notification to the server's own handler inside its own middleware, if it has one.

        Raises:
            Exception: whatever the handler raises.
        """

        async def deliver(ctx: RequestContext) -> None:
            entry = self.server.get_notification_handler(ctx.method)
            if entry is not None:
                await entry.handler(ctx, entry.params_type.model_validate(ctx.params or {}, by_name=False))

        await _wrap(self._middleware(), deliver)(replace(ctx, method=method, lifespan_context=self.state))

    async def listing(self, ctx: RequestContext, method: str) -> Listing:
        """Every page of one of the four listings; empty where the server has no such listing."""
        if not self.serves(method):
            return Listing([])
        kind, attribute = _LISTINGS[method]
        meta = {"_meta": ctx.params["_meta"]} if ctx.params and "_meta" in ctx.params else {}
        items: list[Any] = []
        ttls: list[int] = []
        seen: set[str] = set()
        cursor: str | None = None
        while len(seen) < MOST_PAGES:
            raw = meta if cursor is None else {**meta, "cursor": cursor}
            params = PaginatedRequestParams.model_validate(raw, by_name=False)
            page = _typed(kind, await self.ask(ctx, method, params, raw))
            items += getattr(page, attribute)
            ttls.append(page.ttl_ms)
            cursor = page.next_cursor
            if not cursor or cursor in seen:
                break
            seen.add(cursor)
        return Listing(items, min(ttls))

    def _middleware(self) -> list[ServerMiddleware[Any]]:
        return [one for one in self.server.middleware if not isinstance(one, OpenTelemetryMiddleware)]


def hears(server: Server[Any], notification: str) -> bool:
    """Whether anything in a server but the SDK learns of a client's notification: a handler, or middleware."""
    own = (OpenTelemetryMiddleware, RequestStateBoundary)
    return server.get_notification_handler(notification) is not None or any(
        not isinstance(one, own) for one in server.middleware
    )


def stop_tracing(server: Server[Any]) -> None:
    """Take the SDK's own tracing out of a server: `trunkline.tracing` traces its calls.

    The SDK's would believe what a client's `_meta` says of a trace, put the text of errors into spans, and cost a
    fifth of a small call.
    """
    server.middleware[:] = [one for one in server.middleware if not isinstance(one, OpenTelemetryMiddleware)]


def _wrap(middleware: list[ServerMiddleware[Any]], call: CallNext) -> CallNext:
    for one in reversed(middleware):
        call = partial(_through, one, call)
    return call


def _through(middleware: ServerMiddleware[Any], call: CallNext, ctx: RequestContext) -> Awaitable[HandlerResult]:
    return middleware(ctx, call)


def _typed(kind: type[_Page], result: object) -> _Page:
    if isinstance(result, ErrorData):
        raise MCPError.from_error_data(result)
    return result if isinstance(result, kind) else kind.model_validate(result, by_name=False)
