"""What asks the client: amid a call as far as 2025-11-25, by results that are `input_required` since 2026-07-28."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field


class User(BaseModel):
    username: str = Field(description="User's name")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """A default of each primitive type."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


def titled(**titles: str) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in titles.items()]


class Enums(BaseModel):
    """Each way to write a choice."""

    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})  # noqa: N815
    titledSingle: str = Field(json_schema_extra={"oneOf": titled(low="Low", mid="Middle", high="High")})  # noqa: N815
    untitledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}}
    )
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": titled(a="First", b="Second", c="Third")}})  # noqa: N815
    legacyEnum: str = Field(  # noqa: N815
        json_schema_extra={"enum": ["s", "m", "l"], "enumNames": ["Small", "Medium", "Large"]}
    )


async def answered(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    result = await ctx.elicit(message, schema)
    content = result.data.model_dump_json() if result.action == "accept" else "{}"
    return f"action={result.action}, content={content}"


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Have the client's model answer a prompt."""
    result = await ctx.session.create_message([user(prompt)], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {result.content.text}" if isinstance(result.content, TextContent) else "No text"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the user who they are."""
    return f"User response: {await answered(ctx, message, User)}"


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask with a default in each field."""
    return f"Elicitation completed: {await answered(ctx, 'Please review the defaults', Defaults)}"


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask with choices of each kind."""
    return f"Elicitation completed: {await answered(ctx, 'Please choose', Enums)}"


async def ask_user() -> Elicit[User]:
    return Elicit("Who is this?", User)


async def test_streaming_elicitation(user: Annotated[User, Resolve(ask_user)]) -> str:
    """Ask the user before anything else, whatever the client's revision."""
    return f"Hello, {user.username}!"


def user(text: str) -> SamplingMessage:
    return SamplingMessage(role="user", content=TextContent(type="text", text=text))


def elicit(message: str, **properties: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(prompt: str) -> CreateMessageRequest:
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[user(prompt)], max_tokens=100))


def ask(state: str | None = None, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def elicited(ctx: Context, key: str, field: str) -> Any:
    """What the user filled in, or None where there is no such answer."""
    answer = (ctx.input_responses or {}).get(key)
    return answer.content.get(field) if isinstance(answer, ElicitResult) and answer.content else None


async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Greet the user by name."""
    name = elicited(ctx, "user_name", "name")
    return f"Hello, {name}!" if name else ask(user_name=elicit("What is your name?", name="string"))


async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Have the client's model name a capital."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, CreateMessageResult) and isinstance(answer.content, TextContent):
        return answer.content.text
    return ask(capital_question=sample("What is the capital of France?"))


async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Name the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return ", ".join(str(root.uri) for root in answer.roots)
    return ask(client_roots=ListRootsRequest())


async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Remember between two rounds."""
    if ctx.request_state == "asked" and elicited(ctx, "confirm", "ok"):
        return "state-ok"
    return ask("asked", confirm=elicit("Please confirm", ok="boolean"))


async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """The same; that what comes back is what was given is not for an author to check."""
    return await test_input_required_result_request_state(ctx)


async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Ask for three things at once."""
    if {"user_name", "greeting", "client_roots"} <= (ctx.input_responses or {}).keys():
        return "All is there"
    return ask(
        "asked",
        user_name=elicit("What is your name?", name="string"),
        greeting=sample("Generate a greeting"),
        client_roots=ListRootsRequest(),
    )


async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Ask one thing after another, the answers in the state."""
    known: dict[str, str] = json.loads(ctx.request_state or "{}")
    known |= {key: value for key in ("name", "color") if (value := elicited(ctx, f"step{len(known) + 1}", key))}
    if "name" not in known:
        return ask(json.dumps(known), step1=elicit("Step 1: What is your name?", name="string"))
    if "color" not in known:
        return ask(json.dumps(known), step2=elicit("Step 2: What is your favorite color?", color="string"))
    return f"{known['name']} likes {known['color']}"


async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Ask only what the client said it can answer."""
    can = ctx.client_capabilities
    requests: dict[str, InputRequest] = {}
    if can is not None and can.sampling is not None:
        requests["capital_question"] = sample("What is the capital of France?")
    if can is not None and can.elicitation is not None:
        requests["user_name"] = elicit("What is your name?", name="string")
    return ask(**requests) if requests else "Nothing to ask this client"


async def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    """A prompt that needs a word from the user."""
    context = elicited(ctx, "user_context", "context")
    if context:
        return [UserMessage(f"Use this context: {context}")]
    return ask(user_context=elicit("What context should the prompt use?", context="string"))


def add_to(server: MCPServer) -> None:
    """Offer all of these."""
    for function in (
        test_sampling,
        test_elicitation,
        test_elicitation_sep1034_defaults,
        test_elicitation_sep1330_enums,
        test_streaming_elicitation,
        test_input_required_result_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_request_state,
        test_input_required_result_tampered_state,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
        test_input_required_result_capabilities,
    ):
        server.tool()(function)
    server.prompt()(test_input_required_result_prompt)
