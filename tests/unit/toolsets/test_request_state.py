"""What a client carries between the rounds of a call opens on any worker, for the same tenant, key and arguments."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.request_state import (
    AESGCMRequestStateCodec,
    RequestStateBoundary,
    RequestStateSecurity,
    authenticated_principal,
)
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, CallToolResult, InputRequiredResult, ListToolsResult, TextContent, Tool
from pydantic import SecretStr
from tests.unit.toolsets.client import Client, Switch

from trunkline import CurrentTenant, current_tenant_var
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.hosted import Toolset, toolset

SECRET = SecretStr("0123456789abcdefghijklmnopqrstuv")
ANN = CurrentTenant("t1", "acme", "key_ann")
BOB = CurrentTenant("t1", "acme", "key_bob")
OTHER = CurrentTenant("t2", "other", "key_ann")
ALONE = (Switch("steps"),)
BESIDE = (Switch("first"), Switch("steps"))


def high(**options: Any) -> Toolset:
    """A server that wants a second round, as `MCPServer`."""
    server: MCPServer[Any] = MCPServer("steps", **options)

    @server.tool()
    async def step(ctx: Context, to: str) -> str | InputRequiredResult:
        if ctx.request_state is None:
            return InputRequiredResult(request_state=f"going to {to}")
        return f"{ctx.request_state}: arrived"

    return toolset(server, "steps")


def low() -> Toolset:
    """The same as a lowlevel `Server` without any protection of its own."""

    async def list_tools(ctx: ServerRequestContext[Any], params: object) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="step", input_schema={"type": "object"})])

    async def call(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> Any:
        if params.request_state is None:
            return InputRequiredResult(request_state=f"going to {(params.arguments or {})['to']}")
        return CallToolResult(content=[TextContent(type="text", text=f"{params.request_state}: arrived")])

    return toolset(Server("steps", on_list_tools=list_tools, on_call_tool=call), "steps")


@contextlib.asynccontextmanager
async def worker(
    steps: Toolset, switches: tuple[Switch, ...] = ALONE, secret: SecretStr = SECRET
) -> AsyncIterator[Client]:
    """A worker of its own: its server, made anew, in a catalog with the deployment's secret."""
    first = toolset(MCPServer("first"), "first")
    async with Catalog([first, steps], secret=secret) as catalog:
        yield Client(catalog.server_for(switches))


@contextlib.contextmanager
def calling(tenant: CurrentTenant) -> Iterator[None]:
    reset = current_tenant_var.set(tenant)
    try:
        yield
    finally:
        current_tenant_var.reset(reset)


async def begin(client: Client, to: str = "town", tenant: CurrentTenant = ANN) -> str:
    with calling(tenant):
        result = await client.stateless("tools/call", {"name": "step", "arguments": {"to": to}})
    assert result["resultType"] == "input_required"
    assert to not in result["requestState"], "it is encrypted"
    return result["requestState"]


async def retry(client: Client, state: str, to: str = "town", tenant: CurrentTenant = ANN) -> str:
    params = {"name": "step", "arguments": {"to": to}, "requestState": state}
    with calling(tenant):
        return (await client.stateless("tools/call", params))["content"][0]["text"]


@pytest.mark.parametrize("made", [high, low])
@pytest.mark.parametrize("switches", [ALONE, BESIDE])
async def test_a_retry_may_meet_any_worker(made: Any, switches: tuple[Switch, ...]) -> None:
    async with worker(made(), switches) as first:
        state = await begin(first)
    async with worker(made(), switches) as second:
        assert await retry(second, state) == "going to town: arrived"


async def test_a_toolset_that_is_switched_on_meanwhile_loses_no_state() -> None:
    async with worker(high()) as alone:
        state = await begin(alone)
    async with worker(high(), BESIDE) as beside:
        assert await retry(beside, state) == "going to town: arrived"


@pytest.mark.parametrize("made", [high, low])
@pytest.mark.parametrize("change", [{"tenant": BOB}, {"tenant": OTHER}, {"to": "sea"}])
async def test_a_state_is_refused_to_another_key_another_tenant_and_with_other_arguments(
    made: Any, change: dict[str, Any]
) -> None:
    async with worker(made()) as client:
        state = await begin(client)
        with pytest.raises(MCPError) as refusal:
            await retry(client, state, **change)
    assert (refusal.value.code, refusal.value.data) == (-32602, {"reason": "invalid_request_state"})


async def test_a_state_that_another_deployment_or_toolset_sealed_is_refused() -> None:
    async with worker(high(), secret=SecretStr("another root of 32 characters...")) as elsewhere:
        foreign = await begin(elsewhere)
    async with worker(high()) as client:
        for state in (foreign, "v1.AAAA", "going to town"):
            with pytest.raises(MCPError, match="requestState"):
                await retry(client, state)


async def test_a_plain_state_is_refused_in_the_older_era_too() -> None:
    async with worker(high()) as client:
        with pytest.raises(MCPError, match="requestState"):
            await client.request("tools/call", {"name": "step", "arguments": {"to": "x"}, "requestState": "forged"})


async def test_keys_that_the_author_chose_stay_and_what_an_author_said_of_a_default_is_kept() -> None:
    chosen = high(request_state_security=RequestStateSecurity(keys=["k" * 32]))
    (before,) = [one for one in chosen.server.middleware if isinstance(one, RequestStateBoundary)]
    codec = before._security.codec
    brief = high(request_state_security=RequestStateSecurity.ephemeral(ttl=5, audience="mine"))
    async with worker(chosen), worker(brief):
        assert before in chosen.server.middleware
        assert before._security.codec is codec
        (after,) = [one for one in brief.server.middleware if isinstance(one, RequestStateBoundary)]
        assert (after._security.ttl, after._audience) == (5, "mine")


@pytest.mark.parametrize("secret", [SECRET, SecretStr("")])
@pytest.mark.parametrize("policy", ["keys", "codec", "ephemeral"])
async def test_whatever_keys_an_author_chose_a_public_tenant_s_state_is_refused_to_another(
    policy: str, secret: SecretStr
) -> None:
    security = {
        "keys": lambda: RequestStateSecurity(keys=["k" * 32], ttl=60),
        "codec": lambda: RequestStateSecurity(codec=AESGCMRequestStateCodec(["k" * 32])),
        "ephemeral": RequestStateSecurity.ephemeral,
    }[policy]()
    public, neighbour = CurrentTenant("t1", "open", ""), CurrentTenant("t2", "open-too", "")
    async with worker(high(request_state_security=security), secret=secret) as client:
        state = await begin(client, tenant=public)
        assert await retry(client, state, tenant=public) == "going to town: arrived"
        with pytest.raises(MCPError, match="requestState"):
            await retry(client, state, tenant=neighbour)


async def test_whom_an_author_binds_states_to_is_the_author_s_choice() -> None:
    policy = RequestStateSecurity(keys=["k" * 32], bind_principal=lambda _: "everyone")
    async with worker(high(request_state_security=policy)) as client:
        state = await begin(client)
        assert await retry(client, state, tenant=BOB) == "going to town: arrived"


async def test_outside_of_a_call_a_server_binds_states_as_the_sdk_does() -> None:
    steps = high(request_state_security=RequestStateSecurity(keys=["k" * 32]))
    async with worker(steps):
        (boundary,) = [one for one in steps.server.middleware if isinstance(one, RequestStateBoundary)]
        bind = boundary._security.bind_principal
        context: Any = None
        assert bind is not None
        assert bind(context) is authenticated_principal(context) is None


async def test_without_a_secret_the_sdks_default_stays() -> None:
    steps = high()
    (before,) = [one for one in steps.server.middleware if isinstance(one, RequestStateBoundary)]
    async with Catalog([steps]):
        assert steps.server.middleware == [before]
