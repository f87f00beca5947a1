"""Streamable HTTP of 2026-07-28: each request by itself, at any pod, answered as JSON or on a stream of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import text_of
from tests.streamable import LATEST, MODERN, Client, call, client, modern, request

from trunkline.api.run import ApiProcess

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

PROGRESS = {"progressToken": "tok"}


async def refused(one: Client, message: dict[str, Any], **headers: str) -> tuple[int, int, Any]:
    """Status, code and id of the answer to a request; a header of no value is left out."""
    response = await one.send("POST", message, **{**one.stateless(message), **headers})
    assert response.headers["content-type"] == "application/json"
    error = response.json()
    return response.status_code, error["error"]["code"], error["id"]


async def test_requests_are_answered_by_any_pod_without_a_session(platform: Platform) -> None:
    apis = [await platform.api(), await platform.api()]
    await platform.worker()
    async with client(apis[0], key=platform.key) as one:
        for number, base in enumerate(apis * 2):
            message = modern(call(number, "echo", text=base))
            async with one.open("POST", message, base, **one.stateless(message)) as answer:
                assert answer.headers["content-type"] == "application/json"
                assert "mcp-session-id" not in answer.headers
                (result,) = await answer.rest()
                assert text_of(result["result"]) == base
        found = (await one.modern(request("d", "server/discover")))["result"]
        assert MODERN in found["supportedVersions"]
        listed = (await one.modern(request(1, "tools/list")))["result"]
        assert (listed["cacheScope"], listed["resultType"]) == ("private", "complete")


async def test_progress_makes_a_stream_whose_events_have_no_ids(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        message = modern(call("a", "steps", PROGRESS, gate="", number=3))
        async with one.open("POST", message, **one.stateless(message)) as answer:
            assert answer.streams
            events = await answer.events()
        assert not any(event.id or event.retry for event in events)
        *notes, last = [event.message for event in events]
        assert [note["params"]["progress"] for note in notes] == [0, 1, 2]
        assert text_of(last["result"]) == "stepped"


async def test_a_slow_answer_begins_as_a_stream_when_a_keep_alive_is_due(platform: Platform, gate: Gate) -> None:
    api = await platform.api(keepalive_interval=1.0)
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        message = modern(call(1, "wait", gate=gate.name))
        async with one.open("POST", message, **one.stateless(message)) as answer:
            assert answer.streams
            gate.open()
            lines = await answer.ended()
        assert ": keep-alive" in lines
        assert "id:" not in lines.replace('"id"', "")


async def test_who_takes_json_alone_gets_the_answer_alone(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key, accept="application/json") as one:
        message = modern(call(1, "steps", PROGRESS, gate="", number=2))
        response = await one.send("POST", message, **one.stateless(message))
        assert text_of(response.json()["result"]) == "stepped"


async def test_a_client_that_hangs_up_has_taken_its_request_back(platform: Platform, gate: Gate) -> None:
    first, second = await platform.api(keepalive_interval=1.0), await platform.api()
    await platform.workshop()
    async with client(first, key=platform.key) as one, client(second, key=platform.key) as other:
        message = modern(call(1, "wait", gate=gate.name))
        async with one.open("POST", message, **one.stateless(message)) as answer:
            assert answer.streams
        await gate.until(cancelled=1)
        # Undecided as well.
        asked = asyncio.create_task(other.send("POST", message, **other.stateless(message)))
        await gate.until(entered=2)
        asked.cancel()
        await gate.until(cancelled=2)

        async def forgotten() -> bool:
            tenant = platform.redis.keys.tenant((await platform.tenants.get("demo")).id)
            _, found = await platform.redis.command("SCAN", 0, "MATCH", f"{tenant.base}s:*", "COUNT", 10_000)
            return not found

        await eventually(forgotten)


async def test_a_pod_that_stops_finishes_what_it_has_and_takes_nothing_back(platform: Platform, gate: Gate) -> None:
    leaving = await platform.api(keepalive_interval=1.0)
    await platform.workshop()
    async with client(leaving, key=platform.key) as one, asyncio.TaskGroup() as group:
        message = modern(call(1, "wait", gate=gate.name))
        whole = group.create_task(one.modern(call(2, "wait", gate=gate.name)))
        async with one.open("POST", message, **one.stateless(message)) as answer:
            assert answer.streams
            await gate.until(inside=2)
            stopping = group.create_task(platform.stop(platform.process(ApiProcess)))
            await eventually(lambda: draining(one))
            gate.open()
            assert text_of((await answer.rest())[-1]["result"]) == "through"
        assert text_of((await whole)["result"]) == "through"
        await stopping
    assert gate.cancelled == 0


async def draining(one: Client) -> bool:
    async with one.other().open("GET") as answer:  # no session, but first of all no new stream
        return answer.status == 503


async def test_headers_and_body_must_say_the_same(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        good = modern(call(1, "echo", text="x"))
        for changed in (
            {"mcp_method": "tools/list"},
            {"mcp_method": ""},
            {"mcp_method": "TOOLS/CALL"},
            {"mcp_name": "add"},
            {"mcp_name": ""},
        ):
            assert await refused(one, good, **changed) == (400, -32020, 1), changed
        other = {**good, "params": {**good["params"], "_meta": {**good["params"]["_meta"]}}}
        other["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "v999"
        assert await refused(one, other) == (400, -32020, 1)
        for params in ({}, {"_meta": {}}, {"_meta": "x"}):
            assert await refused(one, request(1, "server/discover", params)) == (400, -32602, 1)


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-text"])
async def test_a_header_that_says_where_a_request_goes_comes_once(platform: Platform, name: str) -> None:
    api = await platform.api()
    async with client(api, key=platform.key) as one:
        message = modern(call(1, "echo", text="x"))
        named = one.headers(content_type="application/json", **one.stateless(message), mcp_param_text="x")
        headers = [*named.items(), (name, named[name])]
        response = await one.http.post(one.base + one.path, json=message, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)


async def test_an_unknown_version_is_told_which_are_served(platform: Platform) -> None:
    api = await platform.api()
    async with client(api, key=platform.key) as one:
        version = {"io.modelcontextprotocol/protocolVersion": "v999"}
        message = modern(request(5, "server/discover"), **version)
        notification = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        for sent, named in ((message, 5), (notification, None)):
            response = await one.send("POST", sent, mcp_method="server/discover", mcp_protocol_version="v999")
            assert response.status_code == 400
            assert response.json()["id"] == named
            error = response.json()["error"]
            assert (error["code"], error["data"]) == (-32022, {"supported": [MODERN], "requested": "v999"})


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_other_methods_are_405_in_the_known_version_400_in_an_unknown_one_and_401_without_a_key(
    platform: Platform, method: str
) -> None:
    api = await platform.api()
    async with client(api, key=platform.key) as one:
        assert (await one.send(method, mcp_protocol_version=MODERN)).status_code == 405
        refused = await one.send(method, mcp_protocol_version="v999")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32022)
        for version in (MODERN, "v999"):
            assert (await one.other(key="").send(method, mcp_protocol_version=version)).status_code == 401


async def test_unknown_methods_are_404_and_errors_of_tools_have_their_status(platform: Platform) -> None:
    api = await platform.api()
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        for method in ("initialize", "ping", "logging/setLevel", "resources/subscribe", "nonsense"):
            assert await refused(one, modern(request("x", method))) == (404, -32601, "x")
        assert await refused(one, modern(call(1, "nothing"))) == (400, -32602, 1)
        assert await refused(one, modern(call(2, "refuse", text="no"))) == (200, -32050, 2)


async def test_notifications_are_acknowledged_and_responses_refused(platform: Platform) -> None:
    api = await platform.api()
    async with client(api, key=platform.key, version=MODERN) as one:
        await one.tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        assert (await one.send("POST", {"jsonrpc": "2.0", "id": 1, "result": {}})).status_code == 400


async def test_a_request_cannot_be_reached_by_its_id_from_outside(platform: Platform, gate: Gate) -> None:
    """Its record is a session that belongs to the caller; but no address names it."""
    api = await platform.api(keepalive_interval=1.0)
    await platform.workshop()
    async with client(api, key=platform.key) as one:
        message = modern(call(1, "wait", gate=gate.name))
        async with one.open("POST", message, **one.stateless(message)) as answer:
            assert answer.streams
            (stream,) = platform.process(ApiProcess)._connections.streams()
            legacy = one.other(version=LATEST, session=stream.name)
            for method, posted in (("GET", None), ("DELETE", None), ("POST", request(2, "ping"))):
                assert (await legacy.send(method, posted)).status_code == 404
            gate.open()
            assert text_of((await answer.rest())[-1]["result"]) == "through"


async def test_a_revoked_key_ends_its_requests(platform: Platform, gate: Gate) -> None:
    api = await platform.api(keepalive_interval=1.0)
    await platform.workshop()
    key, issued = await platform.keys.issue("demo")
    async with client(api, key=key) as one, asyncio.TaskGroup() as group:
        message = modern(call(1, "wait", gate=gate.name))
        async with one.open("POST", message, **one.stateless(message)) as answer:
            assert answer.streams
            undecided = modern(call(2, "wait", gate=gate.name))
            held = group.create_task(one.send("POST", undecided, **one.stateless(undecided)))
            await gate.until(inside=2)
            await platform.keys.revoke(issued.id)
            (ended,) = await answer.rest()
            assert (ended["id"], ended["error"]["code"]) == (1, -32000)
            assert "revoked" in ended["error"]["message"]
        response = await held
        assert (response.status_code, response.json()["id"]) == (401, 2)
        assert response.headers["www-authenticate"].startswith("Bearer")
    await gate.until(cancelled=2)


async def test_one_client_may_use_both_eras_at_once(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        assert text_of((await one.modern(call(1, "echo", text="modern")))["result"]) == "modern"
        assert text_of(await one.call("echo", text="legacy")) == "legacy"
