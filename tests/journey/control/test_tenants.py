from __future__ import annotations

import secrets

import pytest
from tests.control import ControlRig
from tests.journey.conftest import eventually
from tests.stores import as_owner

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_tenant_is_shown_to_its_own_and_to_nobody_else(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    shown = (await control.call("GET", f"/v1/tenants/{slug}", owner.token)).json()
    assert shown == made["tenant"]
    assert shown["urls"]["sse_url"].endswith(f"/t/{slug}/sse")
    assert shown["created_at"].endswith("Z")
    strangers = await control.sign_up()
    operator = await control.operator()
    bodies = []
    for credential, path in (
        (strangers[1].token, slug),
        (strangers[0]["key"]["secret"], slug),
        (operator.token, slug),
        (owner.token, "never-was"),
        (owner.token, "Not%20A%20Name"),
    ):
        answer = await control.call("GET", f"/v1/tenants/{path}", credential)
        assert answer.status_code == 404
        bodies.append({name: value for name, value in answer.json().items() if name != "instance"})
    assert all(body == bodies[0] for body in bodies)


async def test_a_key_does_what_its_scopes_allow(control: ControlRig) -> None:
    made, _ = await control.sign_up()
    slug = made["tenant"]["slug"]
    answer = await control.call("GET", f"/v1/tenants/{slug}", made["key"]["secret"])
    assert answer.status_code == 403
    assert "tenant:read" in answer.json()["detail"]


async def test_its_name_and_access_change_and_the_pods_hear_of_it(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    changed = await control.call("PATCH", f"/v1/tenants/{slug}", owner.token, {"name": "Acme", "access": "public"})
    assert (changed.json()["name"], changed.json()["access"]) == ("Acme", "public")
    async with control.client() as http:

        async def public() -> bool:
            return (await http.post(f"/t/{slug}/tickets", json={})).status_code != 401

        await eventually(public)
    nothing = await control.call("PATCH", f"/v1/tenants/{slug}", owner.token, {})
    assert nothing.json()["name"] == "Acme"
    wrong = await control.call("PATCH", f"/v1/tenants/{slug}", owner.token, {"access": "everybody"})
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["pointer"] == "/access"
    developer = await control.join(slug, owner, "developer")
    refused = await control.call("PATCH", f"/v1/tenants/{slug}", developer.token, {"name": "x"})
    assert refused.status_code == 403


async def test_deleting_wants_the_name_once_more_and_an_owner(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug, tenant_id = made["tenant"]["slug"], made["tenant"]["id"]
    admin = await control.join(slug, owner, "admin")
    path = f"/v1/tenants/{slug}"
    assert (await control.call("DELETE", path, admin.token, {"confirm": slug})).status_code == 403
    assert (await control.call("DELETE", path, owner.token, {"confirm": "something"})).status_code == 422
    assert (await control.call("DELETE", path, owner.token)).status_code == 422
    assert (await control.call("DELETE", path, owner.token, {"confirm": slug})).status_code == 204
    assert (await control.call("GET", path, owner.token)).status_code == 404
    query = "SELECT actor FROM audit_events WHERE tenant_id = $1 AND action = 'tenant.delete'"
    (row,) = await as_owner(control.settings.database_url, query, tenant_id)
    assert row["actor"] == owner.id
    again, _ = await control.sign_up(slug, email=f"{secrets.token_hex(4)}@example.com")
    assert again["tenant"]["id"] != tenant_id
    old = await control.call("GET", path, made["key"]["secret"])
    assert old.status_code == 401


async def test_snippets_have_a_place_for_the_key(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    snippets = (await control.call("GET", f"/v1/tenants/{slug}/snippets", owner.token)).json()
    assert any("tlk_..." in text for text in snippets.values())
    assert made["key"]["secret"] not in str(snippets)


async def test_an_operator_suspends_a_tenant_and_its_members_can_only_look(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug, operator = made["tenant"]["slug"], await control.operator()
    path = f"/v1/operator/tenants/{slug}"
    suspended = await control.call("POST", f"{path}/suspend", operator.token, {"reason": "unpaid"})
    assert (suspended.status_code, suspended.json()["status"]) == (200, "suspended")
    async with control.client(made["key"]["secret"]) as http:

        async def refused() -> bool:
            return (await http.post(f"/t/{slug}/tickets", json={})).status_code == 403

        await eventually(refused)
    assert (await control.call("GET", f"/v1/tenants/{slug}", owner.token)).json()["status"] == "suspended"
    changed = await control.call("PATCH", f"/v1/tenants/{slug}", owner.token, {"name": "x"})
    assert (changed.status_code, "suspended" in changed.json()["detail"]) == (403, True)
    assert (await control.call("POST", f"{path}/resume", operator.token)).json()["status"] == "active"
    query = "SELECT action, actor, detail->>'reason' AS reason FROM audit_events WHERE tenant_id = $1 ORDER BY id"
    rows = await as_owner(control.settings.database_url, query, made["tenant"]["id"])
    events = [tuple(row) for row in rows if row["action"] in {"tenant.suspend", "tenant.resume"}]
    assert events == [("tenant.suspend", operator.id, "unpaid"), ("tenant.resume", operator.id, None)]


async def test_an_operator_sets_limits_and_null_takes_them_back(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug, operator = made["tenant"]["slug"], await control.operator()
    path = f"/v1/operator/tenants/{slug}"
    limited = await control.call("PATCH", path, operator.token, {"limits": {"rate": 5.5, "sessions": 3}})
    assert (limited.json()["limits"]["rate"], limited.json()["limits"]["sessions"]) == (5.5, 3)
    back = await control.call("PATCH", path, operator.token, {"limits": {"rate": None}, "name": "New"})
    assert back.json()["limits"]["rate"] == made["tenant"]["limits"]["rate"]
    assert (back.json()["limits"]["sessions"], back.json()["name"]) == (3, "New")
    assert (await control.call("PATCH", path, operator.token, {"limits": {"rate": 0}})).status_code == 422
    assert (await control.call("PATCH", path, owner.token, {"limits": {"rate": 1}})).status_code == 403


async def test_operators_list_all_tenants_make_and_delete_them(control: ControlRig) -> None:
    operator = await control.operator()
    slug = f"made-{secrets.token_hex(4)}"
    made = await control.call("POST", "/v1/operator/tenants", operator.token, {"slug": slug})
    assert made.status_code == 201
    assert (await control.call("POST", "/v1/operator/tenants", operator.token, {"slug": slug})).status_code == 409
    seen: list[str] = []
    path = "/v1/operator/tenants?limit=2"
    while path:
        answer = await control.call("GET", path, operator.token)
        seen += [each["slug"] for each in answer.json()["items"]]
        path = answer.headers["link"].partition("<")[2].partition(">")[0] if answer.json()["next"] else ""
    assert slug in seen
    assert seen == sorted(seen)
    gone = await control.call("DELETE", f"/v1/operator/tenants/{slug}", operator.token, {"confirm": slug})
    assert gone.status_code == 204
    assert (await control.call("GET", f"/v1/operator/tenants/{slug}", operator.token)).status_code == 404


async def test_an_operators_sign_in_is_theirs_alone(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    operator = await control.operator()
    for path in ("/v1/operator/tenants", "/v1/operator/signup-codes", "/v1/operator/sessions/current"):
        assert (await control.call("GET", path)).status_code == 401
        assert (await control.call("GET", path, owner.token)).status_code == 403
        assert (await control.call("GET", path, made["key"]["secret"])).status_code == 403
        assert (await control.call("GET", path, operator.token)).status_code == 200
    assert (await control.call("GET", "/v1/me", operator.token)).status_code == 403
    wrong = {"email": operator.email, "password": "not it"}
    assert (await control.call("POST", "/v1/operator/sessions", json=wrong)).status_code == 401
    assert (await control.call("POST", "/v1/tokens", json=wrong)).status_code == 401
    out = await control.call("DELETE", "/v1/operator/sessions/current", operator.token)
    assert out.status_code == 204
    assert (await control.call("GET", "/v1/operator/sessions/current", operator.token)).status_code == 401


async def test_codes_are_listed_without_themselves_and_revoked(control: ControlRig) -> None:
    operator = await control.operator()
    made = (await control.call("POST", "/v1/operator/signup-codes", operator.token, {})).json()
    listed = (await control.call("GET", "/v1/operator/signup-codes?limit=200", operator.token)).json()["items"]
    assert made["id"] in {each["id"] for each in listed}
    assert made["code"] not in str(listed)
    path = f"/v1/operator/signup-codes/{made['id']}"
    assert (await control.call("DELETE", path, operator.token)).status_code == 204
    assert (await control.call("DELETE", path, operator.token)).status_code == 404
