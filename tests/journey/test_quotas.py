"""Limits and quotas as clients meet them: exact over several pods, told in headers, made good after a loss."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.test_postgres_away import Switch, reachable
from tests.journey.workshop import Gate
from tests.sse import connect
from tests.stores import as_owner
from tests.streamable import Client, call, client, modern, request

from trunkline.errors import UsageError
from trunkline.streams.quotas import QuotaUse, Used
from trunkline.tenants.limits import KeyLimits
from trunkline.tenants.quotas import month_of

__all__ = ["reachable"]

PING = {"jsonrpc": "2.0", "id": 0, "method": "ping"}


async def answer(one: Client, number: int = 1, base: str = "") -> httpx2.Response:
    """What a stateless call of `echo` is answered."""
    message = modern(call(number, "echo", text="x"))
    return await one.send("POST", message, base, **one.stateless(message))


async def rows(platform: Platform, action: str = "tools/call") -> list[Any]:
    query = "SELECT * FROM audit_events WHERE action = $1 ORDER BY occurred_at, id"
    return await as_owner(platform.settings.database_url, query, action, task="audit")


async def written(platform: Platform, count: int, action: str = "tools/call") -> None:
    async def all_there() -> bool:
        return len(await rows(platform, action)) >= count

    await eventually(all_there)


async def test_a_quota_lets_exactly_as_many_calls_through_over_all_pods_and_after_redis_lost_its_count(
    platform: Platform,
) -> None:
    pods = [await platform.api(), await platform.api()]
    await platform.worker()
    await platform.tenants.set("demo", {"monthly_calls": "25"})
    async with client(pods[0], key=platform.key) as one:
        answers = await asyncio.gather(*(answer(one, number, pods[number % 2]) for number in range(40)))
        assert sorted(each.status_code for each in answers) == [200] * 25 + [429] * 15
        refusal = next(each for each in answers if each.status_code == 429)
        assert "monthly quota" in refusal.json()["error"]["message"]
        assert refusal.json()["error"]["data"] == {"quota": "calls"}
        assert int(refusal.headers["retry-after"]) >= 1
        assert refusal.headers["ratelimit"].startswith('"calls";r=0;t=')

        await written(platform, 25)
        tenant = await platform.tenants.get("demo")
        for name in await platform.redis.command("KEYS", f"{platform.settings.redis_prefix}*quota*"):
            await platform.redis.command("DEL", name)
        assert (await answer(one)).status_code == 429, f"{tenant.id} has used it up still"

        await platform.tenants.set("demo", {"monthly_calls": "27"})
        statuses = [(await answer(one, number, pods[number % 2])).status_code for number in range(4)]
        assert statuses.count(200) == 2
        await platform.tenants.set("demo", {"monthly_calls": "default"})
        assert (await answer(one)).status_code == 200
    await written(platform, 28)
    assert len(await rows(platform)) == 28


async def test_calls_go_on_where_nobody_knows_what_was_used_and_are_counted_when_it_is_known_again(
    platform: Platform, reachable: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.tenants.quotas._PAUSE", 0.0)
    api = await platform.api()
    await platform.worker()
    await platform.tenants.set("demo", {"monthly_calls": "4"})
    async with client(api, key=platform.key) as one:
        assert (await answer(one)).status_code == 200
        await written(platform, 1)
        await reachable(False)
        for name in await platform.redis.command("KEYS", f"{platform.settings.redis_prefix}*quota*"):
            await platform.redis.command("DEL", name)
        assert [(await answer(one)).status_code for _ in range(2)] == [200, 200]
        await reachable(True)
        assert [(await answer(one)).status_code for _ in range(2)] == [200, 429]


async def test_beyond_the_soft_quota_answers_say_so_and_the_log_has_one_event(platform: Platform) -> None:
    api = await platform.api()
    worker = await platform.worker()
    await platform.tenants.set("demo", {"monthly_calls": "10", "monthly_calls_soft": "2"})
    async with client(api, key=platform.key) as one:
        told = [(await answer(one)).headers.get("trunkline-quota") for _ in range(4)]
    assert told == [None, None, "calls;soft=2;used=3", "calls;soft=2;used=4"]
    await platform.stop(worker)
    (event,) = await rows(platform, "quota.soft")
    assert (event["target"], event["outcome"]) == ("calls", "ok")
    assert '"used": 3' in event["detail"]


async def test_compute_is_counted_as_the_log_has_it_and_bounded(platform: Platform) -> None:
    api = await platform.api()
    worker = await platform.worker()
    tenant = await platform.tenants.get("demo")
    await platform.tenants.set("demo", {"monthly_compute": "1"})
    month = month_of(platform.redis.clock.now())
    use = platform.redis.keys.quota(tenant.id, month)
    async with client(api, key=platform.key) as one:
        for number in range(3):
            assert (await answer(one, number)).status_code == 200
        used = await QuotaUse(platform.redis).read(tenant.id, month)
        await platform.redis.command("HINCRBY", use, "us", 1_000_000)
        refused = await answer(one)
        assert (refused.status_code, refused.json()["error"]["data"]) == (429, {"quota": "compute"})
        assert refused.headers["ratelimit-policy"] == '"compute";q=1;w=2592000'
    await platform.stop(worker)
    assert used == Used(3, sum(row["compute_us"] for row in await rows(platform)))
    assert used.compute_us > 0


async def test_a_key_has_limits_of_its_own_and_other_keys_go_on(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    token, _ = await platform.keys.issue("demo", limits=KeyLimits(rate=0.1, burst=3, calls=2))
    async with client(api, key=token) as one, client(api, key=platform.key) as other:
        first = await answer(one)
        assert first.headers["ratelimit-policy"] == '"rate";q=3;w=30, "calls";q=2;w=2592000'
        assert first.headers["ratelimit"].startswith('"rate";r=2;t=10, "calls";r=1;t=')
        assert (await answer(one)).status_code == 200
        spent = await answer(one)
        assert (spent.status_code, spent.json()["error"]["data"]) == (429, {"quota": "calls"})
        listing = modern(request("l", "tools/list"))
        assert (await one.send("POST", listing, **one.stateless(listing))).status_code == 200, "no call"
        fast = await one.send("POST", listing, **one.stateless(listing))
        assert (fast.status_code, "API key" in fast.json()["error"]["message"]) == (429, True)
        assert fast.headers["ratelimit"].startswith('"rate";r=0;t=')
        assert (await answer(other)).status_code == 200


async def test_a_key_has_no_more_calls_in_flight_than_it_may(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    await platform.workshop()
    token, _ = await platform.keys.issue("demo", limits=KeyLimits(in_flight=1))
    async with client(api, key=token) as one:
        message = modern(call("a", "wait", gate=gate.name))
        running = asyncio.create_task(one.send("POST", message, **one.stateless(message)))
        await gate.until(inside=1)
        refused = await answer(one)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        gate.open()
        assert (await running).status_code == 200
        assert (await answer(one)).status_code == 200


async def test_a_key_has_no_more_sessions_than_it_may_on_either_transport(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    token, _ = await platform.keys.issue("demo", limits=KeyLimits(sessions=1))
    async with client(api, key=token) as one, client(api, key=platform.key) as other:
        await one.initialize()
        info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        refused = await one.other(session="").send("POST", request(1, "initialize", info))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
        assert "API key has as many sessions" in refused.json()["error"]["message"]
        with pytest.raises(ConnectionRefusedError, match="429"):
            async with connect(api, key=token):
                pass
        assert (await answer(one)).status_code == 200, "a call without a session has none"
        await other.initialize()

        assert (await one.send("DELETE")).status_code == 204
        async with connect(api, key=token) as stream:
            await stream.initialize()


async def test_every_accepted_message_tells_what_is_left_of_the_rate_whatever_the_transport(
    platform: Platform,
) -> None:
    api = await platform.api()
    await platform.worker()
    await platform.tenants.set("demo", {"rate": "2", "burst": "50"})
    policy = '"rate";q=50;w=25'
    async with client(api, key=platform.key) as one, connect(api, key=platform.key) as stream:
        assert (await answer(one)).headers["ratelimit-policy"] == policy
        await stream.initialize()
        posted = await stream.post(PING)
        assert (posted.status_code, posted.headers["ratelimit-policy"]) == (202, policy)
        await one.initialize()
        async with one.open("POST", call(1, "echo", text="x")) as held:
            assert held.headers["ratelimit-policy"] == policy
            await held.rest()
        page = await one.send("POST", PING, origin="http://localhost:3000")
        assert "ratelimit" in page.headers["access-control-expose-headers"]


async def test_a_key_works_from_its_addresses_alone_and_so_does_its_ticket(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    here, _ = await platform.keys.issue("demo", addresses=["127.0.0.0/8", "2001:db8::/32"])
    away, _ = await platform.keys.issue("demo", addresses=["192.0.2.0/24"])
    async with client(api, key=here) as one, client(api, key=away) as other:
        assert (await answer(one)).status_code == 200
        refused = await answer(other)
        assert (refused.status_code, "address" in refused.json()["error"]["message"]) == (403, True)
        message = modern(call(1, "echo", text="x"))
        headers = other.stateless(message)
        assert (await other.send("POST", message, **headers, x_forwarded_for="192.0.2.7")).status_code == 200
        assert (await one.send("POST", message, **headers, x_forwarded_for="203.0.113.9")).status_code == 403
        for method in ("GET", "DELETE"):
            assert (await other.send(method, mcp_session_id="0" * 32)).status_code == 403
        bearer = {"authorization": f"Bearer {away}", "x-forwarded-for": "192.0.2.7"}
        ticket = (await other.http.post(f"{api}/t/demo/tickets", headers=bearer)).json()["ticket"]
        assert (await other.http.get(f"{api}/t/demo/sse?ticket={ticket}")).status_code == 403


async def test_a_key_for_the_control_plane_alone_is_refused_on_the_message_path(platform: Platform) -> None:
    api = await platform.api()
    token, _ = await platform.keys.issue("demo", scopes=["audit:read"])
    async with client(api, key=token) as one:
        refused = await answer(one)
        assert (refused.status_code, "control plane" in refused.json()["error"]["message"]) == (403, True)


async def test_quotas_that_contradict_each_other_are_refused(platform: Platform) -> None:
    with pytest.raises(UsageError, match="soft quota of calls"):
        await platform.tenants.set("demo", {"monthly_calls": "5", "monthly_calls_soft": "6"})
    await platform.tenants.set("demo", {"monthly_calls_soft": "6"})
    with pytest.raises(UsageError, match="soft quota of calls"):
        await platform.tenants.set("demo", {"monthly_calls": "5"})
    assert (await platform.tenants.get("demo")).quotas.calls is None
