"""Revocation, suspension and expiry take effect on every pod within a second, and close streams, Postgres or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.journey.conftest import Platform, eventually
from tests.journey.test_access import refused
from tests.journey.test_postgres_away import Switch, reachable
from tests.sse import Stream, connect
from tests.stores import as_owner
from tests.streamable import call, client, modern

from trunkline.api.run import ApiProcess
from trunkline.audit.record import Recorder
from trunkline.control_errors import KeyNotFound
from trunkline.db import Database
from trunkline.errors import Conflict, UsageError
from trunkline.tenants.key_record import KeyRecord
from trunkline.tenants.rotation import SigningKeys

__all__ = ["reachable"]

PING = {"jsonrpc": "2.0", "id": 0, "method": "ping"}
IN_TIME = 1.0


async def all_end(streams: list[Stream], why: str) -> None:
    """Each stream ends within a second of now, for that reason."""
    async with asyncio.timeout(IN_TIME):
        for said in await asyncio.gather(*(stream.ended() for stream in streams)):
            assert why in said


async def events(platform: Platform, action: str) -> list[Any]:
    return await as_owner(
        platform.settings.database_url, "SELECT * FROM audit_events WHERE action = $1", action, task="audit"
    )


@pytest.fixture
async def signing(platform: Platform) -> AsyncIterator[SigningKeys]:
    """What an operator has of the signing keys."""
    database = Database(platform.settings.database_url)
    yield SigningKeys(platform.settings, database, platform.redis, Recorder(platform.settings.secret_key))
    await database.aclose()


@pytest.mark.parametrize("postgres", [True, False])
async def test_a_revoked_key_is_refused_by_two_pods_in_time_and_its_streams_end(
    platform: Platform, reachable: Switch, monkeypatch: pytest.MonkeyPatch, postgres: bool
) -> None:
    pods = [await platform.api(), await platform.api()]
    token, record = await platform.keys.issue("demo")
    async with connect(pods[0], key=token) as one, connect(pods[1], key=token) as two:
        await reachable(postgres)
        revoked = await platform.keys.revoke_first(record.id)
        assert (revoked is not None) == postgres
        await all_end([one, two], "key revoked")
        for pod in pods:
            assert (await refused(pod, key=token))[0] == 401
        await reachable(True)
    for number in range(2):
        await platform.process(ApiProcess, number)._freshen()
    for pod in pods:
        assert (await refused(pod, key=token))[0] == 401, "what Postgres knows is no reason to let it in again"
    (event,) = await events(platform, "key.revoke")
    assert (event["target"], event["actor"], '"emergency": true' in event["detail"]) == (record.id, "cli", True)
    (stored,) = [key for key in await platform.keys.list("demo") if key.id == record.id]
    assert isinstance(stored, KeyRecord)
    assert stored.revoked_at is not None
    assert await platform.redis.command("HLEN", platform.redis.keys.emergency) == 0


@pytest.mark.parametrize("postgres", [True, False])
async def test_a_suspended_tenant_is_refused_by_two_pods_in_time_and_its_streams_end(
    platform: Platform, reachable: Switch, postgres: bool
) -> None:
    pods = [await platform.api(), await platform.api()]
    async with connect(pods[0], key=platform.key) as one, connect(pods[1], key=platform.key) as two:
        await reachable(postgres)
        suspended = await platform.tenants.suspend_first("demo")
        assert (suspended is not None) == postgres
        await all_end([one, two], "tenant changed")
        for pod in pods:
            assert (await refused(pod, key=platform.key))[0] == 403
        await reachable(True)
    await platform.process(ApiProcess)._freshen()
    assert (await platform.tenants.get("demo")).status == "suspended"
    (event,) = await events(platform, "tenant.suspend")
    assert (event["actor"], '"emergency": true' in event["detail"]) == ("cli", True)
    await platform.tenants.resume("demo")

    async def open_again() -> bool:
        try:
            async with connect(pods[0], key=platform.key):
                return True
        except ConnectionRefusedError:
            return False

    await eventually(open_again)


async def test_what_changes_of_a_tenant_before_its_suspension_is_written_down_comes_after_it(
    platform: Platform, reachable: Switch
) -> None:
    await reachable(False)
    assert await platform.tenants.suspend_first("demo") is None
    await reachable(True)
    assert (await platform.tenants.set("demo", {"burst": "7"})).status == "suspended"
    assert (await platform.tenants.resume("demo")).status == "active"
    query = "SELECT action FROM audit_events WHERE tenant_id = $1 ORDER BY seq DESC LIMIT 3"
    tenant = UUID((await platform.tenants.get("demo")).id)
    told = await as_owner(platform.settings.database_url, query, tenant, task="audit")
    assert [row["action"] for row in told] == ["tenant.resume", "limits.set", "tenant.suspend"]
    assert await platform.redis.command("HLEN", platform.redis.keys.emergency) == 0


async def test_a_key_that_expires_is_refused_by_two_pods_in_time_and_its_streams_end(
    platform: Platform, reachable: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.tenants.key_options.SHORTEST_LIFETIME", timedelta(0))
    pods = [await platform.api(), await platform.api()]
    token, record = await platform.keys.issue("demo", expires=timedelta(seconds=4))
    await reachable(False)
    async with connect(pods[0], key=token) as one, connect(pods[1], key=token) as two:
        ended = await asyncio.gather(one.ended(), two.ended())
        late = platform.redis.clock.now() - record.expires_at.timestamp()
        assert all("key expired" in said for said in ended)
        assert 0 <= late < IN_TIME
        for pod in pods:
            assert (await refused(pod, key=token))[0] == 401


async def test_a_key_ends_itself_over_the_control_plane_with_postgres_away_in_time(
    platform: Platform, reachable: Switch
) -> None:
    api = await platform.api()
    secret, record = await platform.keys.issue("demo", scopes=["keys:manage", "mcp:read"])
    keys = f"{api}/v1/tenants/demo/keys"
    headers = {"authorization": f"Bearer {secret}"}
    async with connect(api, key=secret) as stream:
        leaked = stream.http
        await reachable(False)
        assert (await leaked.get(keys, headers=headers)).status_code == 503
        answer = await leaked.delete(f"{keys}/{record.id}", params={"emergency": True}, headers=headers)
        assert (answer.status_code, answer.json()) == (202, {"id": record.id, "recorded": False})
        await all_end([stream], "key revoked")
        assert (await leaked.get(keys, headers=headers)).status_code == 401
        await reachable(True)


async def test_what_is_revoked_first_must_be_a_keys_id(platform: Platform) -> None:
    with pytest.raises(KeyNotFound):
        await platform.keys.revoke_first("everything")
    with pytest.raises(KeyNotFound):
        await platform.keys.revoke_first("key_" + "0" * 32)
    assert await platform.redis.command("HLEN", platform.redis.keys.emergency) == 0


async def test_signing_keys_rotate_under_load_and_no_call_is_refused(
    platform: Platform, signing: SigningKeys
) -> None:
    pods = [await platform.api(), await platform.api()]
    await platform.worker()
    (before,) = await signing.list()
    statuses: list[int] = []
    keys = [platform.key]
    until = time.monotonic() + 5

    async def load(pod: str, number: int) -> None:
        async with client(pod) as one:
            while time.monotonic() < until:
                one.key = keys[len(statuses) % len(keys)]
                message = modern(call(number, "echo", text="x"))
                statuses.append((await one.send("POST", message, **one.stateless(message))).status_code)

    loads = [asyncio.create_task(load(pods[number % 2], number)) for number in range(8)]
    after = await signing.rotate(ahead=timedelta(seconds=1))
    assert (after.state, after.live_keys) == ("next", 0)
    while time.monotonic() < until - 1:
        token, _ = await platform.keys.issue("demo")
        keys.append(token)
    await asyncio.gather(*loads)
    assert set(statuses) == {200}
    assert len(statuses) > 200
    signs, verifies = await signing.list()
    assert [(each.kid, each.state) for each in (signs, verifies)] == [(after.kid, "signs"), (before.kid, "verifies")]
    assert signs.live_keys > 0
    assert verifies.live_keys > 0
    async with client(pods[0], key=keys[-1]) as one:
        published = (await one.http.get(f"{pods[0]}/.well-known/jwks.json")).json()["keys"]
        assert {before.kid, after.kid} <= {each["kid"] for each in published}


async def test_a_retired_signing_key_takes_its_api_keys_and_their_streams_with_it_in_time(
    platform: Platform, signing: SigningKeys
) -> None:
    pods = [await platform.api(), await platform.api()]
    (old,) = await signing.list()
    with pytest.raises(Conflict, match="This key signs"):
        await signing.retire(old.kid)
    await signing.rotate(ahead=timedelta(0))
    fresh, _ = await platform.keys.issue("demo")
    with pytest.raises(Conflict, match="1 API keys hang on this key"):
        await signing.retire(old.kid)
    async with (
        connect(pods[0], key=platform.key) as one,
        connect(pods[1], key=platform.key) as two,
        connect(pods[1], key=fresh) as bystander,
    ):
        await signing.retire(old.kid, force=True)
        await all_end([one, two], "key revoked")
        for pod in pods:
            assert (await refused(pod, key=platform.key))[0] == 401
        assert (await bystander.post(PING)).status_code == 202
    assert [each.state for each in await signing.list()] == ["signs", "retired"]
    assert [event["target"] for event in await events(platform, "signing.retire")] == [old.kid]
    with pytest.raises(UsageError, match="30 days"):
        await signing.rotate(ahead=timedelta(days=31))
