"""One server made of several: what a tenant's clients see when it has switched on more than one toolset.

Listings are merged in the order of the switches and come on one page; a call goes to the handler of the toolset that
owns the name or the URI, inside that server's own middleware and with its own lifespan state.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mcp.server.caching import CacheHint
from mcp.server.context import HandlerResult
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.server import HandlerEntry
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmptyResult,
    GetPromptRequestParams,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    NotificationParams,
    PaginatedRequestParams,
    PromptReference,
    ReadResourceRequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.methods import SPEC_CLIENT_METHODS
from pydantic import BaseModel

from trunkline import __version__
from trunkline.toolsets.direct import DirectTool
from trunkline.toolsets.member import Listing, Member, RequestContext, stop_tracing
from trunkline.toolsets.names import Names

logger = logging.getLogger(__name__)

RESOURCE_NOT_FOUND = -32002
"""Code of an unknown resource up to 2025-11-25 (server/resources, error handling); -32602 since."""

_NOT_MINE = frozenset({INVALID_PARAMS, METHOD_NOT_FOUND, RESOURCE_NOT_FOUND})

Handler = Callable[[RequestContext, Any], Awaitable[HandlerResult]]
UriParams = ReadResourceRequestParams | SubscribeRequestParams | UnsubscribeRequestParams


class Composed(Server[Any]):
    """A server whose every answer comes from one of its members.

    Unknown tools, prompts, resources and cursors are answered with -32602 (2025-11-25, server/tools, error handling).
    A member whose listing fails is left out of it and logged; where all fail, the first failure is the answer.
    """

    def __init__(self, members: Sequence[Member], tools: Names, prompts: Names) -> None:
        super().__init__(
            "trunkline",
            version=__version__,
            instructions=_instructions(members),
            get_tool_input_schema=self._tool_input_schema,
        )
        stop_tracing(self)
        self._members = tuple(members)
        self._by_name = {member.name: member for member in members}
        self._tools = tools
        self._prompts = prompts
        for member in reversed(members):
            self.extensions.update(member.server.extensions)
        hints = [member.server.cache_hints.get("server/discover") for member in members]
        self.cache_hints["server/discover"] = CacheHint(
            min((each.ttl_ms if each else 0 for each in hints), default=0)
        )
        for method, (params_type, handler) in self._routes().items():
            if any(member.serves(method) for member in members):
                self.add_request_handler(method, params_type, handler)
        self.add_request_handler("logging/setLevel", SetLevelRequestParams, self._set_level)
        if not members:
            self.add_request_handler("tools/list", PaginatedRequestParams, self._list_tools)
            self.add_request_handler("tools/call", CallToolRequestParams, self._call_tool)

    def _routes(self) -> dict[str, tuple[type[BaseModel], Handler]]:
        return {
            "tools/list": (PaginatedRequestParams, self._list_tools),
            "tools/call": (CallToolRequestParams, self._call_tool),
            "prompts/list": (PaginatedRequestParams, self._list_prompts),
            "prompts/get": (GetPromptRequestParams, self._get_prompt),
            "resources/list": (PaginatedRequestParams, self._list_resources),
            "resources/templates/list": (PaginatedRequestParams, self._list_templates),
            "resources/read": (ReadResourceRequestParams, partial(self._by_uri, "resources/read")),
            "resources/subscribe": (SubscribeRequestParams, partial(self._by_uri, "resources/subscribe")),
            "resources/unsubscribe": (UnsubscribeRequestParams, partial(self._by_uri, "resources/unsubscribe")),
            "completion/complete": (CompleteRequestParams, self._complete),
        }

    def get_request_handler(self, method: str) -> HandlerEntry[Any] | None:
        """The composed handler; for a method outside the specification that of the first member that has one."""
        own = super().get_request_handler(method)
        if own is not None or method in SPEC_CLIENT_METHODS:
            return own
        for member in self._members:
            entry = member.server.get_request_handler(method)
            if entry is not None:

                async def forward(ctx: RequestContext, params: BaseModel, member: Member = member) -> HandlerResult:
                    return await member.ask(ctx, method, params, ctx.params)

                return HandlerEntry(entry.params_type, forward)
        return None

    def get_notification_handler(self, method: str) -> HandlerEntry[Any] | None:
        """A handler that tells every member that has one."""
        listeners = [member for member in self._members if member.server.get_notification_handler(method) is not None]
        if not listeners:
            return None

        async def tell_all(ctx: RequestContext, params: BaseModel) -> None:
            for member in listeners:
                try:
                    await member.tell(ctx, method)
                except Exception:  # the message's edge: one member's failure is not the others'
                    logger.warning("toolset %s failed on %s", member.name, method, exc_info=True)

        return HandlerEntry(NotificationParams, tell_all)

    # Tools and prompts: by name.

    async def _list_tools(self, ctx: RequestContext, params: PaginatedRequestParams) -> ListToolsResult:
        merged = await self._merged(ctx, params, "tools/list", self._tools)
        return ListToolsResult(tools=merged.items, ttl_ms=merged.ttl_ms)

    async def _list_prompts(self, ctx: RequestContext, params: PaginatedRequestParams) -> ListPromptsResult:
        merged = await self._merged(ctx, params, "prompts/list", self._prompts)
        return ListPromptsResult(prompts=merged.items, ttl_ms=merged.ttl_ms)

    async def _merged(
        self, ctx: RequestContext, params: PaginatedRequestParams, method: str, names: Names
    ) -> Listing:
        merged: dict[str, Any] = {}
        listings = await self._listings(ctx, params, method)
        for member, listing in listings:
            for item in listing.items:
                seen = names.add(member.name, item.name)
                merged.setdefault(seen, item if seen == item.name else item.model_copy(update={"name": seen}))
        return Listing(list(merged.values()), _shortest(listings))

    async def _call_tool(self, ctx: RequestContext, params: CallToolRequestParams) -> HandlerResult:
        return await self._by_name_in(self._tools, "tool", ctx, params)

    async def _get_prompt(self, ctx: RequestContext, params: GetPromptRequestParams) -> HandlerResult:
        return await self._by_name_in(self._prompts, "prompt", ctx, params)

    async def _by_name_in(
        self, names: Names, what: str, ctx: RequestContext, params: CallToolRequestParams | GetPromptRequestParams
    ) -> HandlerResult:
        member, name = await self._owner(names, what, ctx, params.name)
        if name == params.name:
            return await member.ask(ctx, ctx.method, params, ctx.params)
        raw = {**(ctx.params or {}), "name": name}
        return await member.ask(ctx, ctx.method, params.model_copy(update={"name": name}), raw)

    async def _owner(self, names: Names, what: str, ctx: RequestContext, seen: str) -> tuple[Member, str]:
        owner = names.owner(seen)
        if owner is None:
            # A name that came up after the start: another worker may have listed it, this one not yet.
            await self._merged(ctx, PaginatedRequestParams(), f"{what}s/list", names)
            owner = names.owner(seen)
        member = self._by_name.get(owner[0]) if owner else None
        if owner is None or member is None:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown {what}: {seen}")
        return member, owner[1]

    def _tool_input_schema(self, seen: str) -> Mapping[str, Any] | None:
        owner = self._tools.owner(seen)
        member = self._by_name.get(owner[0]) if owner else None
        if owner is None or member is None or member.server.get_tool_input_schema is None:
            return None
        return member.server.get_tool_input_schema(owner[1])

    def direct(self, seen: str) -> DirectTool | None:
        """The tool that clients know by this name, if it may be called with nothing around it."""
        owner = self._tools.owner(seen)
        member = self._by_name.get(owner[0]) if owner else None
        if owner is None or member is None or self.middleware:
            return None
        return member.direct.find(owner[1])

    # Resources: by URI.

    async def _list_resources(self, ctx: RequestContext, params: PaginatedRequestParams) -> ListResourcesResult:
        resources: dict[str, Any] = {}
        listings = await self._listings(ctx, params, "resources/list")
        for _, listing in listings:
            for item in listing.items:
                resources.setdefault(str(item.uri), item)
        return ListResourcesResult(resources=list(resources.values()), ttl_ms=_shortest(listings))

    async def _list_templates(
        self, ctx: RequestContext, params: PaginatedRequestParams
    ) -> ListResourceTemplatesResult:
        templates: dict[str, Any] = {}
        listings = await self._listings(ctx, params, "resources/templates/list")
        for _, listing in listings:
            for item in listing.items:
                templates.setdefault(item.uri_template, item)
        return ListResourceTemplatesResult(resource_templates=list(templates.values()), ttl_ms=_shortest(listings))

    async def _by_uri(self, method: str, ctx: RequestContext, params: UriParams) -> HandlerResult:
        uri = str(params.uri)
        owners = self._owners_of(uri)
        serving = [member for member in owners or self._members if member.serves(method)]
        if not serving:
            raise MCPError(code=METHOD_NOT_FOUND, message=f"{uri} does not support {method}", data=method)
        refusal: Exception | None = None
        for member in serving:
            try:
                return await member.ask(ctx, method, params, ctx.params)
            except (MCPError, ValueError, LookupError) as error:  # the ways in which servers say "not mine"
                if isinstance(error, MCPError) and error.error.code not in _NOT_MINE:
                    raise
                refusal = refusal or error
        if owners and refusal is not None:
            raise refusal
        raise MCPError(code=INVALID_PARAMS, message=f"Unknown resource: {uri}", data={"uri": uri}) from refusal

    def _owners_of(self, uri: str) -> list[Member]:
        """Those that listed it, before those with a template for it, each in the order of the switches."""
        claims = [member for member in self._members if member.offer.has(uri)]
        return sorted(claims, key=lambda member: uri not in member.offer.resources)

    async def _complete(self, ctx: RequestContext, params: CompleteRequestParams) -> HandlerResult:
        if isinstance(params.ref, PromptReference):
            member, name = await self._owner(self._prompts, "prompt", ctx, params.ref.name)
            ref = {**(ctx.params or {}).get("ref", {}), "name": name}
            raw = {**(ctx.params or {}), "ref": ref}
            inner = CompleteRequestParams.model_validate(raw, by_name=False)
            return await self._completed_by([member], ctx, inner, raw)
        owners = self._owners_of(params.ref.uri)
        return await self._completed_by(owners or self._members, ctx, params, ctx.params)

    async def _completed_by(
        self,
        members: Sequence[Member],
        ctx: RequestContext,
        params: CompleteRequestParams,
        raw: Mapping[str, Any] | None,
    ) -> HandlerResult:
        for member in members:
            if member.serves("completion/complete"):
                return await member.ask(ctx, "completion/complete", params, raw)
        return CompleteResult(completion=Completion(values=[]))

    async def _set_level(self, ctx: RequestContext, params: SetLevelRequestParams) -> EmptyResult:
        for member in self._members:
            if member.serves("logging/setLevel"):
                await member.ask(ctx, "logging/setLevel", params, ctx.params)
        return EmptyResult()

    async def _listings(
        self, ctx: RequestContext, params: PaginatedRequestParams, method: str
    ) -> list[tuple[Member, Listing]]:
        if params.cursor is not None:
            raise MCPError(code=INVALID_PARAMS, message="Unknown cursor: this listing has one page")
        listings: list[tuple[Member, Listing]] = []
        failure: Exception | None = None
        for member in self._members:
            if not member.serves(method):
                continue
            try:
                listings.append((member, await member.listing(ctx, method)))
            except Exception as error:  # the message's edge: one member's failure is not the others'
                logger.warning("toolset %s failed on %s", member.name, method, exc_info=True)
                failure = failure or error
        if failure is not None and not listings:
            raise failure
        return listings


def _shortest(listings: Sequence[tuple[Member, Listing]]) -> int:
    return min((listing.ttl_ms for _, listing in listings), default=0)


def _instructions(members: Sequence[Member]) -> str | None:
    told = [(member.server.title or member.name, member.server.instructions) for member in members]
    parts = [(title, text.strip()) for title, text in told if text and text.strip()]
    if len(members) == 1 and parts:
        return parts[0][1]
    return "\n\n".join(f"{title}: {text}" for title, text in parts) or None
