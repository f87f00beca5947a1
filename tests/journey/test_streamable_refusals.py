"""Every row of the status table for `/mcp`, in both eras. Nothing of it reaches a worker, nothing is a 500."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.journey.conftest import Platform, eventually
from tests.streamable import LATEST, MODERN, Client, call, client, modern, request

from trunkline.api.run import ApiProcess

PING = request(0, "ping")


@pytest.fixture
async def one(platform: Platform) -> AsyncIterator[Client]:
    """A session on a pod without any worker: what is accepted stays in the lane, where it can be counted."""
    api = await platform.api()
    worker = await platform.worker()
    async with client(api, key=platform.key) as opened:
        await opened.initialize()
        await platform.stop(worker)
        yield opened


@pytest.fixture
async def nothing_accepted(platform: Platform, one: Client) -> AsyncIterator[None]:
    lane = platform.redis.keys.tenant((await platform.tenants.get("demo")).id).calls
    before = await platform.redis.command("XLEN", lane)
    yield
    assert await platform.redis.command("XLEN", lane) == before


@pytest.mark.usefixtures("nothing_accepted")
@pytest.mark.parametrize("version", [LATEST, MODERN])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","id":2}', -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b"null", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600),
        (b'{"jsonrpc":"2.0","result":{}}', -32600),
    ],
)
async def test_what_is_no_message_is_400_with_its_code(one: Client, version: str, body: bytes, code: int) -> None:
    response = await one.send("POST", body, mcp_protocol_version=version)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code
    assert response.json()["id"] is None


@pytest.mark.usefixtures("nothing_accepted")
async def test_bodies_too_large_or_not_declared_as_json_are_413_and_415(one: Client) -> None:
    large = b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 2_097_152 + b'"}'
    for version in (LATEST, MODERN):
        assert (await one.send("POST", large, mcp_protocol_version=version)).status_code == 413
        answer = await one.send("POST", PING, mcp_protocol_version=version, content_type="text/plain")
        assert answer.status_code == 415


@pytest.mark.usefixtures("nothing_accepted")
async def test_what_the_client_does_not_accept_is_406(one: Client) -> None:
    for accept in ("text/html", "application/json;q=0, text/event-stream;q=0"):
        assert (await one.send("POST", PING, accept=accept)).status_code == 406
    assert (await one.send("GET", accept="application/json")).status_code == 406
    ping = modern(PING)
    refused = await one.send("POST", ping, accept="text/event-stream", **one.stateless(ping))
    assert refused.status_code == 406
    listen = modern(request(1, "subscriptions/listen", {"notifications": {}}))
    assert (await one.send("POST", listen, accept="application/json", **one.stateless(listen))).status_code == 406


@pytest.mark.usefixtures("nothing_accepted")
async def test_without_a_session_only_initialize_is_heard(one: Client) -> None:
    lost = one.other(session="")
    for method, message in (
        ("POST", PING),
        ("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}),
        ("POST", {"jsonrpc": "2.0", "id": "x", "result": {}}),
        ("GET", None),
        ("DELETE", None),
    ):
        response = await lost.send(method, message)
        assert response.status_code == 400, message
        assert "Mcp-Session-Id" in response.json()["error"]["message"]
    assert (await lost.send("POST", PING)).json()["id"] == 0


async def test_a_session_of_another_key_tenant_or_transport_looks_like_none_at_all(
    platform: Platform, one: Client
) -> None:
    await platform.tenants.create("other")
    key, _ = await platform.keys.issue("demo")
    foreign, _ = await platform.keys.issue("other")
    nobody = "0" * 32
    strangers = [
        one.other(key=key),
        one.other(key=key, session=nobody),
        one.other(session=nobody),
        one.other(session="short"),
        one.other(key=foreign, path="/t/other/mcp"),
        one.other(key=foreign, path="/t/other/mcp", session=nobody),
    ]
    last = f"{one.session}.0"
    for method, message, headers in (
        ("POST", PING, {}),
        ("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, {}),
        ("POST", {"jsonrpc": "2.0", "id": f"{nobody}.1.1", "result": {}}, {}),
        ("POST", {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}, {}),
        ("GET", None, {}),
        ("GET", None, {"last_event_id": last}),
        ("DELETE", None, {}),
    ):
        answers = set()
        for stranger in strangers:
            response = await stranger.send(method, message, **headers)
            named = tuple(sorted((k, v) for k, v in response.headers.items() if k != "date"))
            answers.add((response.status_code, named, response.content))
        assert len(answers) == 1, message
        assert answers.pop()[0] == 404
    posted = await one.http.post(
        f"{one.base}/t/demo/messages?session_id={one.session}", json=PING, headers=one.headers()
    )
    assert posted.status_code == 404
    sse = await one.http.get(f"{one.base}/t/demo/sse", headers=one.other(accept="").headers(last_event_id=last))
    assert sse.status_code == 404


@pytest.mark.parametrize(
    "seen", ["nonsense", "{session}", "{session}.99", "{session}.{session}.0", "{other}.0", ".1"]
)
async def test_an_id_that_no_stream_of_the_session_has_sent_resumes_nothing(one: Client, seen: str) -> None:
    named = seen.format(session=one.session, other="0" * 32)
    assert (await one.send("GET", last_event_id=named)).status_code == 404


@pytest.mark.usefixtures("nothing_accepted")
async def test_no_key_or_a_bad_one_is_401(platform: Platform, one: Client) -> None:
    revoked, record = await platform.keys.issue("demo")
    await platform.keys.revoke(record.id)

    async def is_revoked() -> bool:
        return (await one.other(key=revoked).send("POST", b"not even JSON")).status_code == 401

    await eventually(is_revoked)
    for key in ("", "nonsense", revoked, f"{platform.key}x"):
        for version in (LATEST, MODERN):
            response = await one.other(key=key).send("POST", b"not even JSON", mcp_protocol_version=version)
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
        for method in ("GET", "DELETE"):
            assert (await one.other(key=key).send(method)).status_code == 401


@pytest.mark.usefixtures("nothing_accepted")
async def test_a_key_without_the_scope_is_403_and_the_request_is_named(platform: Platform, one: Client) -> None:
    key, _ = await platform.keys.issue("demo", scopes=["mcp:read"])
    stateless = modern(call(5, "echo", text="x"))
    response = await one.other(key=key).send("POST", stateless, **one.stateless(stateless))
    assert (response.status_code, response.json()["id"]) == (403, 5)


@pytest.mark.parametrize(
    ("method", "path", "version", "status"),
    [
        ("POST", "/t/nobody/mcp", LATEST, 404),
        ("PUT", "/t/demo/mcp", LATEST, 405),
        ("HEAD", "/t/demo/mcp", LATEST, 405),
        ("GET", "/t/demo/mcp", MODERN, 405),
        ("DELETE", "/t/demo/mcp/", MODERN, 405),
        ("GET", "/t/demo/mcp/more", LATEST, 404),
        ("GET", "/.well-known/oauth-protected-resource/t/demo/mcp", LATEST, 404),
    ],
)
async def test_unknown_addresses_and_methods_are_answered_in_json(
    one: Client, method: str, path: str, version: str, status: int
) -> None:
    response = await one.other(path=path).send(method, mcp_protocol_version=version)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    if method != "HEAD":
        assert response.json()["error"]["message"]
    assert (response.headers.get("allow") == "POST") == (version == MODERN)


async def test_limits_of_a_tenant_are_429_with_a_time_to_wait(platform: Platform, one: Client) -> None:
    await platform.tenants.set("demo", {"sessions": "1", "in_flight": "1"})
    directory = platform.process(ApiProcess)._directory

    async def is_known() -> bool:
        await platform.redis.command("PING")
        tenant = await directory.get("demo")
        return tenant is not None and tenant.limits.sessions == 1

    await eventually(is_known)
    info: dict[str, Any] = {
        "protocolVersion": LATEST,
        "capabilities": {},
        "clientInfo": {"name": "x", "version": "1"},
    }
    refused = await one.other(session="").send("POST", request(1, "initialize", info))
    assert (refused.status_code, refused.json()["id"]) == (429, 1)
    assert int(refused.headers["retry-after"]) >= 1
    async with one.open("POST", request(2, "ping")) as held:
        assert held.streams
        for message in (request(3, "ping"), modern(request(4, "tools/list"))):
            headers = one.stateless(message) if "_meta" in message.get("params", {}) else {}
            refused = await one.send("POST", message, **headers)
            assert (refused.status_code, refused.json()["id"]) == (429, message["id"])


@pytest.mark.usefixtures("nothing_accepted")
async def test_a_name_or_origin_that_is_not_ours_is_421_or_403(one: Client) -> None:
    for method, message in (("POST", PING), ("GET", None), ("DELETE", None), ("OPTIONS", None)):
        assert (await one.send(method, message, origin="https://evil.example")).status_code == 403
        assert (await one.send(method, message, host="evil.example")).status_code == 421


@pytest.mark.usefixtures("nothing_accepted")
async def test_a_session_that_is_named_twice_is_400(one: Client) -> None:
    headers = [*one.headers(content_type="application/json").items(), ("mcp-session-id", "0" * 32)]
    response = await one.http.post(one.base + one.path, json=PING, headers=headers)
    assert response.status_code == 400
