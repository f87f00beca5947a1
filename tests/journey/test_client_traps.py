"""What has cost other servers their users, one test each."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx2
import pytest
from tests.journey.conftest import Platform
from tests.journey.workshop import Gate
from tests.sse import connect, text_of
from tests.streamable import LATEST, call, client, modern, request

from trunkline.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

WELL_KNOWN = ("oauth-protected-resource", "oauth-authorization-server", "openid-configuration")
ORIGIN = "http://localhost:6274"


async def test_a_tenant_with_keys_has_no_oauth_discovery_and_its_404s_are_json(platform: Platform) -> None:
    """Cursor and Claude Code leave a configured key aside where discovery answers, and wedge on an HTML 404."""
    api = await platform.api()
    async with httpx2.AsyncClient(trust_env=False) as http:
        for name in WELL_KNOWN:
            for path in (
                f"/.well-known/{name}",
                f"/.well-known/{name}/t/demo/mcp",
                f"/t/demo/mcp/.well-known/{name}",
            ):
                response = await http.get(api + path)
                assert response.status_code == 404
                assert response.json()["error"]["message"]
        refused = await http.post(f"{api}/t/demo/mcp", json=request(1, "ping"))
        assert refused.status_code == 401
        assert "resource_metadata" not in refused.headers["www-authenticate"]


async def test_a_lost_session_is_404_and_never_401(platform: Platform) -> None:
    """A 401 starts a login."""
    api = await platform.api()
    async with client(api, key=platform.key, session="0" * 32, version=LATEST) as one:
        for method, message in (("POST", request(1, "ping")), ("GET", None), ("DELETE", None)):
            assert (await one.send(method, message)).status_code == 404
        with pytest.raises(ConnectionRefusedError) as refused:
            async with connect(api, key=platform.key, last_event_id=f"{one.session}.1"):
                pass
        assert refused.value.args[0] == 404


async def test_a_trailing_slash_is_no_redirect(platform: Platform) -> None:
    """Clients drop their headers on a 307."""
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key, path="/t/demo/mcp/") as one:
        await one.initialize()
        assert text_of(await one.call("echo", text="slash")) == "slash"
        assert text_of((await one.modern(call(1, "echo", text="modern")))["result"]) == "modern"
        async with one.open("GET") as own:
            assert own.status == 200
        assert (await one.send("DELETE")).status_code == 204


async def test_streams_show_signs_of_life_at_least_every_15_seconds(platform: Platform, gate: Gate) -> None:
    """Load balancers cut at 60 s, Cursor at 305."""
    assert Settings(environment="dev").keepalive_interval <= 15
    api = await platform.api(keepalive_interval=1.0)
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        for message, headers in (
            (call(1, "wait", gate=gate.name), {}),
            (modern(call(1, "wait", gate=gate.name)), one.stateless(call(1, "wait"))),
            (modern(request(2, "subscriptions/listen", {"notifications": {}})), None),
        ):
            named = one.stateless(message) if headers is None else headers
            async with one.open("POST", message, **named) as answer, asyncio.timeout(10):
                assert ": keep-alive" in [line async for line in alive(answer.response)]
        async with one.open("GET") as own, asyncio.timeout(10):
            assert ": keep-alive" in [line async for line in alive(own.response)]


async def alive(response: httpx2.Response) -> AsyncIterator[str]:
    """Lines up to the first sign of life."""
    async for line in response.aiter_lines():
        yield line
        if line == ": keep-alive":
            return


async def test_a_second_get_replaces_the_first(platform: Platform) -> None:
    """Refusing it left clients outside for days."""
    first, second = await platform.api(), await platform.api()
    await platform.worker()
    async with client(first, key=platform.key) as one:
        await one.initialize()
        async with one.open("GET") as before, one.open("GET", base=second) as after:
            assert after.status == 200
            assert "replaced" in await before.ended()


async def test_who_initializes_for_every_call_from_ever_other_addresses_is_served(platform: Platform) -> None:
    """claude.ai does."""
    apis = [await platform.api(), await platform.api()]
    await platform.worker()
    for number in range(20):
        async with client(apis[number % 2], key=platform.key) as one:
            await one.initialize()
            answer = await one.ask(
                call(1, "echo", text="x"), apis[(number + 1) % 2], x_forwarded_for=f"10.0.0.{number}"
            )
            assert text_of(answer["result"]) == "x"


async def test_a_browser_may_ask_without_a_key_and_read_what_it_needs(platform: Platform) -> None:
    """Inspector, and whatever else runs in a page."""
    api = await platform.api()
    await platform.worker()
    wanted = (
        "authorization, content-type, accept, mcp-protocol-version, mcp-session-id, last-event-id, mcp-method, "
        "mcp-name, mcp-param-region, traceparent"
    )
    async with client(api, key=platform.key) as one:
        preflight = await one.http.options(
            f"{api}/t/demo/mcp",
            headers={
                "origin": ORIGIN,
                "access-control-request-method": "DELETE",
                "access-control-request-headers": wanted,
            },
        )
        assert preflight.status_code == 204
        allowed = set(re.split(", ?", preflight.headers["access-control-allow-headers"]))
        assert allowed >= set(wanted.split(", "))
        assert {"GET", "POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
        await one.initialize()
        for method, message in (("POST", request(1, "ping")), ("GET", None), ("DELETE", None)):
            async with one.open(method, message, origin=ORIGIN) as answer:
                assert answer.headers["access-control-allow-origin"] == ORIGIN
                exposed = answer.headers["access-control-expose-headers"]
                assert "mcp-session-id" in exposed
                assert "www-authenticate" in exposed


async def test_tools_have_names_that_all_clients_take_the_same_on_every_listing(platform: Platform) -> None:
    apis = [await platform.api(), await platform.api()]
    await platform.workshop()
    await platform.workshop()
    async with client(apis[0], key=platform.key) as one:
        await one.initialize()
        listings = []
        for number in range(4):
            base = apis[number % 2]
            listed = await one.ask(request(number, "tools/list"), base)
            stateless = await one.modern(request(number, "tools/list"), base)
            listings += [[tool["name"] for tool in each["result"]["tools"]] for each in (listed, stateless)]
        assert all(each == listings[0] for each in listings)
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in listings[0])
        assert len(set(listings[0])) == len(listings[0])


async def test_a_slow_tool_keeps_its_client_waiting_by_progress(platform: Platform, gate: Gate) -> None:
    """Clients give up after 60 to 300 s without."""
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        message = call(1, "plod", {"progressToken": "p"}, gate=gate.name)
        for full, headers in ((message, {}), (modern(message), one.stateless(message))):
            async with one.open("POST", full, **headers) as answer:
                for _ in range(2):
                    assert (await answer.message())["params"]["progressToken"] == "p"


async def test_a_tool_learns_what_its_client_can_be_asked_before_it_asks(platform: Platform) -> None:
    """Two of 24 clients can sample."""
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        for capabilities in ({}, {"sampling": {}}):
            await one.initialize(capabilities=capabilities)
            seen = json.loads(text_of(await one.call("client")))
            assert seen["sampling"] is bool(capabilities)
