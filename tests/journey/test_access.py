"""Who may connect, and for how long: keys, tickets, public tenants, new tenants."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx2
import orjson
import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.test_odd_clients import raw
from tests.sse import PATIENCE, connect, text_of
from tests.streamable import LATEST, MODERN, client, modern, request

PING = {"jsonrpc": "2.0", "id": 0, "method": "ping"}
PING_TEXT = orjson.dumps(PING).decode()


async def refused(api: str, path: str = "/t/demo/sse", **options: str) -> tuple[int, str]:
    """Status and body with which a stream is refused."""
    with pytest.raises(ConnectionRefusedError) as error:
        async with connect(api, path, **options):
            pass
    return error.value.args


async def ticket_for(api: str, key: str, tenant: str = "demo") -> str:
    async with httpx2.AsyncClient(trust_env=False) as http:
        response = await http.post(f"{api}/t/{tenant}/tickets", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    return str(response.json()["ticket"])


async def test_a_revoked_key_stops_on_every_pod_within_a_second_and_its_streams_end(platform: Platform) -> None:
    pods = [await platform.api() for _ in range(3)]
    token, record = await platform.keys.issue("demo")
    async with (
        connect(pods[0], key=token) as first,
        connect(pods[1], key=token) as second,
        connect(pods[1], key=platform.key) as bystander,
    ):
        await platform.keys.revoke(record.id)
        async with asyncio.timeout(1):
            assert "key revoked" in await first.ended()
            assert "key revoked" in await second.ended()
        for pod in pods:
            assert (await refused(pod, key=token))[0] == 401
            assert (await refused(pod, key=token, last_event_id=f"{first.session}.0"))[0] == 401
            first.base = pod
            assert (await first.post(PING)).status_code == 401
        assert (await bystander.post(PING)).status_code == 202


@pytest.mark.parametrize("what", ["revoked", "suspended"])
async def test_who_sends_the_same_bytes_again_is_let_in_only_as_long_as_that_is_right(
    platform: Platform, what: str
) -> None:
    api = await platform.api()
    token, record = await platform.keys.issue("demo")
    async with connect(api, key=token) as bystander, raw(api) as (reader, writer):
        lines = (
            f"POST /t/demo/messages?session_id={bystander.session} HTTP/1.1", "host: 127.0.0.1",
            f"authorization: Bearer {token}", "content-type: application/json",
            f"content-length: {len(PING_TEXT)}", "", PING_TEXT,
        )  # fmt: skip
        for _ in range(3):
            writer.write("\r\n".join(lines).encode())
            assert b" 202 " in await reader.readline()
            await reader.readuntil(b"Accepted")
        await (platform.keys.revoke(record.id) if what == "revoked" else platform.tenants.suspend("demo"))
        await bystander.ended()
        writer.write("\r\n".join(lines).encode())
        assert (b" 401 " if what == "revoked" else b" 403 ") in await reader.readline()


@pytest.mark.parametrize("version", ["", LATEST, MODERN])
@pytest.mark.parametrize("what", ["revoked", "suspended"])
async def test_who_may_not_be_here_any_more_when_the_body_has_come_is_refused(
    platform: Platform, version: str, what: str
) -> None:
    api = await platform.api()
    token, record = await platform.keys.issue("demo")
    path = "/t/demo/mcp" if version else f"/t/demo/messages?session_id={'0' * 32}"
    headers = [
        "host: 127.0.0.1", f"authorization: Bearer {token}", "content-type: application/json", "content-length: 2",
        f"mcp-session-id: {'0' * 32}", *([f"mcp-protocol-version: {version}"] if version else []),
    ]  # fmt: skip
    async with raw(api) as (reader, writer), connect(api, key=token) as bystander:
        writer.write("\r\n".join([f"POST {path} HTTP/1.1", "expect: 100-continue", *headers, "", ""]).encode())
        assert b"100" in await reader.readline(), "the key was good, and the body is waited for"
        await (platform.keys.revoke(record.id) if what == "revoked" else platform.tenants.suspend("demo"))
        await bystander.ended()
        writer.write(b"{}")
        assert await reader.readline() == b"\r\n"
        assert (b"401" if what == "revoked" else b"403") in await reader.readline()


async def test_a_key_that_expires_is_refused_and_its_stream_ends(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.tenants.key_options.SHORTEST_LIFETIME", timedelta(0))
    api = await platform.api()
    token, _ = await platform.keys.issue("demo", expires=timedelta(seconds=3))
    async with connect(api, key=token) as stream:
        ticket = await ticket_for(api, token)
        assert "key expired" in await stream.ended()
        response = await stream.post(PING)
        assert response.status_code == 401
        assert "expired" in response.json()["error"]["message"]
        assert (await refused(api, f"/t/demo/sse?ticket={ticket}"))[0] == 401


async def test_a_key_works_at_its_own_tenant_alone(platform: Platform) -> None:
    await platform.tenants.create("other")
    theirs, _ = await platform.keys.issue("other")
    api = await platform.api()
    async with connect(api, "/t/other/sse", key=theirs) as stream:
        assert (await refused(api, "/t/other/sse", key=platform.key))[0] == 401
        assert (await refused(api, "/t/demo/sse", key=theirs))[0] == 401
        assert (await stream.post(PING, headers={"authorization": f"Bearer {platform.key}"})).status_code == 401


async def test_a_tenant_is_known_at_once_though_it_was_asked_for_before_it_was_made(platform: Platform) -> None:
    pods = [await platform.api(), await platform.api()]
    for pod in pods:
        assert (await refused(pod, "/t/late/sse", key=platform.key))[0] == 404
    await platform.worker()
    await platform.tenants.create("late")
    await platform.tenants.enable("late", "demo")
    key, _ = await platform.keys.issue("late")
    for pod in pods:

        async def known(pod: str = pod) -> bool:
            async with httpx2.AsyncClient(trust_env=False) as http:
                return (await http.post(f"{pod}/t/late/messages")).status_code != 404

        async with asyncio.timeout(1):
            await eventually(known)
        async with connect(pod, "/t/late/sse", key=key) as stream:
            await stream.initialize()
            assert text_of(await stream.call("add", {"a": 3, "b": 5})) == "8"


async def test_a_tenant_that_was_deleted_is_gone_and_its_name_gives_nothing_to_old_keys(platform: Platform) -> None:
    await platform.tenants.create("brief")
    old, _ = await platform.keys.issue("brief")
    api = await platform.api()
    async with connect(api, "/t/brief/sse", key=old) as stream:
        await platform.tenants.delete("brief")
        await stream.ended()
    assert (await refused(api, "/t/brief/sse", key=old))[0] in {401, 404}
    await platform.tenants.create("brief")

    async def refused_as_a_key() -> bool:
        return (await refused(api, "/t/brief/sse", key=old))[0] == 401

    await eventually(refused_as_a_key)


async def test_a_tenant_asks_for_streams_of_any_kind_no_faster_than_it_may(platform: Platform) -> None:
    api = await platform.api()
    others, _ = await platform.keys.issue("demo")
    await platform.tenants.set("demo", {"rate": "0.01", "burst": "2", "sessions": "4"})
    async with client(api, key=platform.key) as one, connect(api, key=others):
        listen = modern(request(1, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}))
        async with one.open("POST", listen, **one.stateless(listen)) as listening:
            assert listening.status == 200
        lost = one.other(session="0" * 32, version=LATEST)
        for _ in range(2):
            assert (await lost.send("GET")).status_code == 404
        for refusal in (
            await lost.send("GET"),
            await one.send("POST", listen, **one.stateless(listen)),
            await one.other(path="/t/demo/sse").send("GET"),
        ):
            assert (refusal.status_code, int(refusal.headers["retry-after"]) > 1) == (429, True)


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        {"jsonrpc": "2.0", "id": "no-question", "result": {}},
    ],
)
async def test_cancellations_and_responses_count_against_the_rate_of_a_tenant(
    platform: Platform, message: dict[str, object]
) -> None:
    api = await platform.api()
    await platform.worker()
    async with client(api, key=platform.key) as one:
        await one.initialize()
        await platform.tenants.set("demo", {"rate": "0.01", "burst": "2"})

        async def refusal() -> bool:
            response = await one.send("POST", message)
            if response.status_code == 202:
                return False
            assert (response.status_code, int(response.headers["retry-after"]) > 1) == (429, True)
            return True

        await eventually(refusal)


# Public tenants.


async def make_public(platform: Platform) -> None:
    await platform.tenants.set("demo", {"access": "public"})


async def test_a_public_tenant_is_called_without_a_key_and_with_one(platform: Platform) -> None:
    await make_public(platform)
    api = await platform.api()
    await platform.worker()
    async with connect(api) as anyone, connect(api, key=platform.key) as holder:
        await anyone.initialize()
        await holder.initialize()
        assert (await anyone.call("whoami"))["structuredContent"]["key_id"] == ""
        assert (await holder.call("whoami"))["structuredContent"]["key_id"]
        anyone.endpoint = holder.endpoint
        assert (await anyone.post(PING)).status_code == 404
    assert (await refused(api, authorization="Bearer nonsense"))[0] == 401


async def test_public_streams_end_when_a_key_is_needed_again_and_others_stay(platform: Platform) -> None:
    await make_public(platform)
    pods = [await platform.api(), await platform.api()]
    async with connect(pods[0]) as anyone, connect(pods[1], key=platform.key) as holder:
        await platform.tenants.set("demo", {"access": "key"})
        assert "tenant changed" in await anyone.ended()
        assert (await anyone.post(PING)).status_code == 401
        assert (await holder.post(PING)).status_code == 202


async def test_an_address_that_calls_public_tenants_too_fast_is_429_and_key_holders_are_not(
    platform: Platform,
) -> None:
    await make_public(platform)
    api = await platform.api(public_rate=0.5, public_burst=3)
    async with connect(api) as anyone, connect(api, key=platform.key) as holder:
        statuses = [(await anyone.post(PING)).status_code for _ in range(3)]
        assert statuses == [202, 202, 429]
        response = await anyone.post(PING)
        assert response.headers["retry-after"] in {"1", "2"}
        assert "public" in response.json()["error"]["message"]
        for _ in range(5):
            assert (await holder.post(PING)).status_code == 202


# Tickets.


async def test_a_ticket_opens_one_stream_and_posts_still_need_the_key(platform: Platform) -> None:
    issuing, opening = await platform.api(), await platform.api()
    await platform.worker()
    ticket = await ticket_for(issuing, platform.key)
    async with connect(opening, f"/t/demo/sse?ticket={ticket}") as stream:
        assert (await stream.post(PING)).status_code == 401
        stream.headers["authorization"] = f"Bearer {platform.key}"
        await stream.initialize()
        assert text_of(await stream.call("echo", {"text": "from a page"})) == "from a page"
        for api in (issuing, opening):
            assert (await refused(api, f"/t/demo/sse?ticket={ticket}"))[0] == 401


async def test_a_page_resumes_with_a_fresh_ticket_and_the_id_in_the_query(platform: Platform) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.worker()
    async with connect(first, f"/t/demo/sse?ticket={await ticket_for(first, platform.key)}") as before:
        before.headers["authorization"] = f"Bearer {platform.key}"
        await before.initialize()
        seen = before.last_id
        await before.call("echo", {"text": "missed"})
    ticket = await ticket_for(first, platform.key)
    async with connect(second, f"/t/demo/sse?ticket={ticket}&last_event_id={seen}") as after:
        assert after.endpoint == before.endpoint
        assert text_of((await after.event()).message["result"]) == "missed"


async def test_a_ticket_is_good_for_its_tenant_alone_and_no_longer_than_its_key(platform: Platform) -> None:
    await platform.tenants.create("other")
    token, record = await platform.keys.issue("demo")
    api = await platform.api()
    elsewhere, revoked = await ticket_for(api, platform.key), await ticket_for(api, token)
    assert (await refused(api, f"/t/other/sse?ticket={elsewhere}"))[0] == 401
    await platform.keys.revoke(record.id)
    assert (await refused(api, f"/t/demo/sse?ticket={revoked}"))[0] == 401
    unknown = await refused(api, "/t/demo/sse?ticket=" + "x" * 43)
    assert unknown == await refused(api, f"/t/other/sse?ticket={elsewhere}")
    async with connect(api, f"/t/demo/sse?ticket={elsewhere}") as still_good:
        assert still_good.session


async def test_of_many_who_present_one_ticket_one_gets_a_stream(platform: Platform) -> None:
    pods = [await platform.api(), await platform.api()]
    ticket = await ticket_for(pods[0], platform.key)

    async def status(pod: str) -> int:
        url = f"{pod}/t/demo/sse?ticket={ticket}"
        async with (
            httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http,
            http.stream("GET", url) as response,
        ):
            return response.status_code

    statuses = await asyncio.gather(*(status(pod) for pod in pods * 5))
    assert sorted(statuses) == [200] + [401] * 9


async def test_a_ticket_needs_a_key(platform: Platform) -> None:
    api = await platform.api()
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.post(f"{api}/t/demo/tickets")).status_code == 401
        assert (await http.get(f"{api}/t/demo/tickets")).status_code == 405
