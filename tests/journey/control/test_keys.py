"""API keys over the control plane: what it takes to issue, see, change and end them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from tests.control import ControlRig
from tests.journey.test_access import refused
from tests.sse import connect

from trunkline.api.run import ApiProcess
from trunkline.tenants.limits import KeyLimits

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEYS = "/v1/tenants/demo/keys"


@pytest_asyncio.fixture(loop_scope="module")
async def admin(control: ControlRig) -> Any:
    """A client whose key may do what an admin may."""
    secret, _ = await control.platform.keys.issue("demo", scopes=["tenant:admin", "mcp:call"])
    async with control.client(secret) as client:
        yield client


async def issued(client: httpx2.AsyncClient, **wanted: Any) -> dict[str, Any]:
    answer = await client.post(KEYS, json={"expires_in": "30d", **wanted})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_key_is_issued_shown_once_works_and_is_revoked(
    control: ControlRig, admin: httpx2.AsyncClient
) -> None:
    friday = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    wanted = {"name": "ci", "tools": ["add", "echo"], "addresses": ["127.0.0.0/8"]}
    wanted = {**wanted, "expires_at": friday.isoformat()}
    answer = await admin.post(KEYS, json={**wanted, "limits": {"rate": 5, "monthly_calls": 100}})
    assert answer.status_code == 201, answer.text
    new = answer.json()
    key = new["key"]
    assert (key["name"], key["tools"], key["addresses"], key["state"]) == (
        "ci", ["add", "echo"], ["127.0.0.0/8"], "active",
    )  # fmt: skip
    assert (key["limits"]["rate"], key["limits"]["burst"], key["limits"]["monthly_calls"]) == (5, 5, 100)
    assert abs(datetime.fromisoformat(key["expires_at"]) - friday) < timedelta(seconds=5)
    assert key["created_by"].startswith("key:")
    assert any(new["secret"] in text for text in new["snippets"].values())

    async with connect(control.url, key=new["secret"]) as stream:
        shown = (await admin.get(f"{KEYS}/{key['id']}")).json()
        assert shown == key
        assert new["secret"] not in (await admin.get(KEYS)).text
        revoked = await admin.delete(f"{KEYS}/{key['id']}")
        assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
        assert "key revoked" in await stream.ended()
    assert (await refused(control.url, key=new["secret"]))[0] == 401


async def test_keys_are_listed_in_pages(admin: httpx2.AsyncClient) -> None:
    made = [(await issued(admin, name=f"page {number}"))["key"]["id"] for number in range(5)]
    first = await admin.get(KEYS, params={"limit": 3})
    page = first.json()
    assert [each["id"] for each in page["items"]] == made[:1:-1]
    assert 'rel="next"' in first.headers["link"]
    rest = (await admin.get(KEYS, params={"limit": 200, "cursor": page["next"]})).json()
    assert [each["id"] for each in rest["items"]][:2] == made[1::-1]
    assert rest["next"] is None
    assert (await admin.get(KEYS, params={"cursor": "x" * 20})).status_code == 404


async def test_a_key_is_renamed_and_rotated_to_a_narrower_one(control: ControlRig, admin: httpx2.AsyncClient) -> None:
    old = await issued(admin, name="old", tools=["e*"])
    path = f"{KEYS}/{old['key']['id']}"
    assert (await admin.patch(path, json={"name": "new"})).json()["name"] == "new"
    assert (await admin.patch(path, json={"scopes": []})).status_code == 422
    wider = await admin.post(f"{path}/rotate", json={"tools": ["*"]})
    assert (wider.status_code, "only narrow" in wider.json()["detail"]) == (422, True)
    new = await admin.post(f"{path}/rotate", json={"overlap": "0s", "tools": ["echo"], "expires_in": "1d"})
    assert new.status_code == 201, new.text
    assert (new.json()["key"]["name"], new.json()["key"]["tools"]) == ("new", ["echo"])
    before = (await admin.get(path)).json()
    assert (before["state"], before["replaced_by"]) == ("revoked", new.json()["key"]["id"])
    assert (await refused(control.url, key=old["secret"]))[0] == 401
    async with connect(control.url, key=new.json()["secret"]):
        pass
    assert (await admin.post(f"{path}/rotate", json={})).status_code == 409


async def test_nobody_issues_a_key_that_may_do_more(control: ControlRig, admin: httpx2.AsyncClient) -> None:
    secret, record = await control.platform.keys.issue(
        "demo", scopes=["keys:manage"], tools=["echo"], addresses=["127.0.0.0/8"], expires=timedelta(days=10)
    )
    _, master = await control.platform.keys.issue("demo", scopes=["tenant:admin"], expires=timedelta(days=5))
    narrow = {"tools": ["echo"], "addresses": ["127.0.0.1"], "expires_in": "1d", "scopes": ["mcp:call"]}
    async with control.client(secret) as manager:
        assert (await manager.post(KEYS, json=narrow)).status_code == 201
        for wider in (
            {"scopes": ["tenant:admin"]},
            {"scopes": ["keys:manage"]},
            {"tools": ["*"]},
            {"tools": []},
            {"addresses": []},
            {"addresses": ["10.0.0.0/8"]},
            {"expires_in": "30d"},
        ):
            answer = await manager.post(KEYS, json={**narrow, **wider})
            assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "forbidden"), wider
        assert (await manager.post(f"{KEYS}/{master.id}/rotate", json={"expires_in": "1d"})).status_code == 403
        assert (await manager.delete(f"{KEYS}/{master.id}")).status_code == 403
        longer = await manager.post(f"{KEYS}/{record.id}/rotate", json={})
        assert longer.status_code == 403, "it would outlive the key that asks"


async def test_a_key_with_limits_of_its_own_multiplies_them_through_no_other_key(control: ControlRig) -> None:
    secret, record = await control.platform.keys.issue(
        "demo", scopes=["tenant:admin"], expires=timedelta(days=5), limits=KeyLimits(calls=10)
    )
    _, other = await control.platform.keys.issue("demo", limits=KeyLimits(calls=10))
    body = {"expires_in": "1d", "limits": {"monthly_calls": 1}}
    async with control.client(secret) as limited:
        refused = await limited.post(KEYS, json={**body, "scopes": ["mcp:call"]})
        assert (refused.status_code, "count anew" in refused.json()["detail"]) == (403, True)
        assert (await limited.post(f"{KEYS}/{other.id}/rotate", json=body)).status_code == 403
        assert (await limited.post(f"{KEYS}/{record.id}/rotate", json=body)).status_code == 201


async def test_a_key_with_limits_that_cannot_be_any_more_is_listed_and_refused(
    control: ControlRig, admin: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("trunkline.tenants.limits.LEAST_RATE", 1e-18)
        secret, record = await control.platform.keys.issue("demo", limits=KeyLimits(rate=1e-10))
    shown = await admin.get(f"{KEYS}/{record.id}")
    assert (shown.status_code, shown.json()["limits"]["rate"]) == (200, 1e-10)
    assert (await refused(control.url, key=secret))[0] == 401


async def test_a_key_that_is_being_replaced_issues_none_that_outlives_it(control: ControlRig) -> None:
    secret, record = await control.platform.keys.issue("demo", scopes=["keys:manage"], expires=timedelta(days=9))
    await control.platform.keys.rotate(record.id, overlap=timedelta(hours=3))
    async with control.client(secret) as ending:
        body = {"scopes": ["mcp:call"], "expires_in": "4h"}
        assert (await ending.post(KEYS, json=body)).status_code == 403
        assert (await ending.post(KEYS, json=body | {"expires_in": "2h"})).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"expires_in": "1y"},
        {"expires_in": "400d"},
        {"expires_in": "1d", "expires_at": "2030-01-01T00:00:00Z"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"tools": ["a b"]},
        {"addresses": ["here"]},
        {"scopes": ["mcp:everything"]},
        {"limits": {"burst": 5}},
        {"limits": {"monthly_calls": 0}},
        {"limits": {"monthly_calls": 5, "monthly_calls_soft": 6}},
        {"limits": {"colour": 5}},
        {"name": "\u0000"},
        {"secret": "mine"},
    ],
)
async def test_what_cannot_be_is_422_with_a_sentence(admin: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    answer = await admin.post(KEYS, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].endswith(".")


async def test_a_key_of_another_tenant_looks_like_one_that_never_was(
    control: ControlRig, admin: httpx2.AsyncClient
) -> None:
    await control.platform.tenants.create("neighbour")
    _, theirs = await control.platform.keys.issue("neighbour")
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/rotate", {}),
    ):
        bodies = []
        for key in (theirs.id, "key_" + "0" * 32, "nothing"):
            answer = await admin.request(method, f"{KEYS}/{key}{path}", json=body)
            assert answer.status_code == 404, answer.text
            bodies.append({**answer.json(), "instance": ""})
        assert bodies[0] == bodies[1] == bodies[2]


async def test_a_key_that_is_used_for_the_control_plane_alone_says_when(control: ControlRig) -> None:
    secret, record = await control.platform.keys.issue("demo", scopes=["keys:manage"])
    async with control.client(secret) as client:
        assert (await client.get(f"{KEYS}/{record.id}")).json()["last_used_at"] is None
        await control.platform.process(ApiProcess)._last_use.write()
        assert (await client.get(f"{KEYS}/{record.id}")).json()["last_used_at"] is not None


async def test_a_key_ends_itself_in_an_emergency_and_no_other(control: ControlRig, admin: httpx2.AsyncClient) -> None:
    secret, record = await control.platform.keys.issue("demo", scopes=["keys:manage", "mcp:read"])
    own = f"{KEYS}/{record.id}"
    assert (await admin.delete(own, params={"emergency": True})).status_code == 403
    async with control.client(secret) as leaked:
        answer = await leaked.delete(own, params={"emergency": True})
        assert (answer.status_code, answer.json()["state"]) == (200, "revoked"), "Postgres is there"
        assert (await leaked.get(KEYS)).status_code == 401
    assert (await refused(control.url, key=secret))[0] == 401


async def test_a_key_with_addresses_works_from_them_alone_here_too(control: ControlRig) -> None:
    secret, _ = await control.platform.keys.issue("demo", scopes=["tenant:admin"], addresses=["192.0.2.0/24"])
    async with control.client(secret) as client:
        answer = await client.get(KEYS)
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "address-not-allowed")
        assert (await client.get(KEYS, headers={"x-forwarded-for": "192.0.2.9"})).status_code == 200


async def test_a_developer_manages_the_keys_that_they_issued_and_no_other(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    keys = f"/v1/tenants/{slug}/keys"
    developer = await control.join(slug, owner, "developer")
    own = await control.call("POST", keys, developer.token, {"name": "mine"})
    assert own.status_code == 201, own.text
    assert own.json()["key"]["created_by"] == f"user:{developer.id}"
    assert (await control.call("POST", keys, developer.token, {"scopes": ["tenant:admin"]})).status_code == 403
    mine, first = f"{keys}/{own.json()['key']['id']}", f"{keys}/{made['key']['key']['id']}"
    for method, path, body in (("PATCH", "", {"name": "x"}), ("POST", "/rotate", {}), ("DELETE", "", None)):
        refused = await control.call(method, first + path, developer.token, body)
        assert (refused.status_code, "keys that you issued" in refused.json()["detail"]) == (403, True)
        assert (await control.call(method, mine + path, developer.token, body)).status_code in {200, 201}
    assert (await control.call("GET", first, developer.token)).status_code == 200
    auditor = await control.join(slug, owner, "auditor")
    assert (await control.call("POST", keys, auditor.token, {})).status_code == 403
    assert (await control.call("DELETE", first, owner.token)).status_code == 200
