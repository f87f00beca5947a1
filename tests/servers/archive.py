"""A town archive as an MCP server, on the low-level `Server`: paged listings, subscriptions, a method of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListToolsResult,
    NotificationParams,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    RequestParams,
    Resource,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
    UnsubscribeRequestParams,
)

Ctx = ServerRequestContext[dict[str, Any]]

TEXT = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
LONG_NAME = "list_every_deed_that_was_registered_before_the_great_fire_of_1842_in_town"
TOOLS = [
    Tool(name="search", description="Search the records.", input_schema=TEXT),
    Tool(
        name="records.count",
        description="How many records there are.",
        input_schema={"type": "object"},
        annotations=ToolAnnotations(read_only_hint=True),
    ),
    Tool(name=LONG_NAME, description="The oldest deeds.", input_schema={"type": "object"}),
]
RECORDS = {
    "archive://deeds/1": "Deed of the mill",
    "archive://deeds/2": "Deed of the inn",
    "library://hours": "The archive's own copy of the library's hours",
}


@asynccontextmanager
async def reading_room(server: Server[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    yield {"records": dict(RECORDS), "watched": set(), "roots_changed": 0}


async def list_tools(ctx: Ctx, params: PaginatedRequestParams | None) -> ListToolsResult:
    start = int(params.cursor) if params and params.cursor else 0
    following = str(start + 1) if start + 1 < len(TOOLS) else None
    return ListToolsResult(tools=TOOLS[start : start + 1], next_cursor=following)


async def call_tool(ctx: Ctx, params: CallToolRequestParams) -> CallToolResult:
    records = ctx.lifespan_context["records"]
    if params.name == "search":
        query = (params.arguments or {})["query"]
        text = "\n".join(value for value in records.values() if query in value)
    elif params.name == "records.count":
        text = str(len(records))
    elif params.name == LONG_NAME:
        text = records["archive://deeds/1"]
    else:
        raise ValueError(f"Unknown tool: {params.name}")
    return CallToolResult(content=[TextContent(type="text", text=text)])


async def list_resources(ctx: Ctx, params: PaginatedRequestParams | None) -> ListResourcesResult:
    records = ctx.lifespan_context["records"]
    return ListResourcesResult(resources=[Resource(uri=uri, name=text) for uri, text in records.items()])


async def read_resource(ctx: Ctx, params: ReadResourceRequestParams) -> ReadResourceResult:
    uri = str(params.uri)
    text = ctx.lifespan_context["records"].get(uri)
    if text is None:
        raise ValueError(f"Unknown record {uri}")
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, text=text)])


async def subscribe(ctx: Ctx, params: SubscribeRequestParams) -> EmptyResult:
    ctx.lifespan_context["watched"].add(str(params.uri))
    return EmptyResult()


async def unsubscribe(ctx: Ctx, params: UnsubscribeRequestParams) -> EmptyResult:
    ctx.lifespan_context["watched"].discard(str(params.uri))
    return EmptyResult()


async def list_prompts(ctx: Ctx, params: PaginatedRequestParams | None) -> ListPromptsResult:
    arguments = [PromptArgument(name="text", required=True)]
    return ListPromptsResult(prompts=[Prompt(name="summarize", arguments=arguments)])


async def get_prompt(ctx: Ctx, params: GetPromptRequestParams) -> GetPromptResult:
    if params.name != "summarize":
        raise MCPError(code=-32602, message=f"Unknown prompt: {params.name}")
    text = f"Summarize for the archive: {(params.arguments or {})['text']}"
    return GetPromptResult(messages=[PromptMessage(role="user", content=TextContent(type="text", text=text))])


async def complete(ctx: Ctx, params: CompleteRequestParams) -> CompleteResult:
    return CompleteResult(completion=Completion(values=["deed", "map"]))


class StampParams(RequestParams):
    uri: str


async def stamp(ctx: Ctx, params: StampParams) -> dict[str, Any]:
    return {"stamped": params.uri, "records": len(ctx.lifespan_context["records"])}


async def roots_changed(ctx: Ctx, params: NotificationParams) -> None:
    ctx.lifespan_context["roots_changed"] += 1


def make_server() -> Server[dict[str, Any]]:
    server = Server(
        "town archive",
        version="0.9",
        instructions="Records are read by their URI.",
        lifespan=reading_room,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
    )
    server.add_request_handler("archive/stamp", StampParams, stamp)
    server.add_notification_handler("notifications/roots/list_changed", NotificationParams, roots_changed)
    return server
