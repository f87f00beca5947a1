from __future__ import annotations

import secrets

import pytest
from tests.control import PASSWORD, ControlRig
from tests.stores import as_owner

pytestmark = pytest.mark.asyncio(loop_scope="module")


def body(slug: str = "", **changes: object) -> dict[str, object]:
    slug = slug or f"t-{secrets.token_hex(4)}"
    return {"slug": slug, "email": f"{slug}@example.com", "password": PASSWORD, **changes}


async def test_a_stranger_gets_a_tenant_a_key_and_how_to_use_it(control: ControlRig) -> None:
    wanted = body(name="Ada")
    answer = await control.call("POST", "/v1/signup", json=wanted)
    assert answer.status_code == 201
    made = answer.json()
    slug = wanted["slug"]
    assert made["tenant"]["slug"] == slug
    assert made["user"] == {"id": made["user"]["id"], "email": wanted["email"], "name": "Ada"}
    assert made["mcp_url"].endswith(f"/t/{slug}/mcp")
    assert any(made["mcp_url"] in text for text in made["snippets"].values())
    assert made["key"]["secret"].startswith("tlk_")
    assert answer.headers["cache-control"] == "no-store"
    async with control.client(made["key"]["secret"]) as http:
        opened = await http.post(f"/t/{slug}/tickets", json={})
        assert opened.status_code in {200, 201}


async def test_signing_up_signs_in_by_cookie(control: ControlRig) -> None:
    answer = await control.call("POST", "/v1/signup", json=body())
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    name, _, secret = cookie.partition(";")[0].partition("=")
    session = await control.call("GET", "/v1/sessions/current", cookie=f"{name}={secret}")
    assert session.status_code == 200
    assert session.json()["memberships"] == [{"tenant": answer.json()["tenant"]["slug"], "role": "owner"}]


async def test_the_events_say_who_signed_up_and_from_where(control: ControlRig) -> None:
    made, person = await control.sign_up()
    query = "SELECT action, actor, detail::text AS detail FROM audit_events WHERE tenant_id = $1 ORDER BY id"
    rows = await as_owner(control.settings.database_url, query, made["tenant"]["id"])
    assert sorted(row["action"] for row in rows) == ["key.issue", "tenant.create"]
    assert {row["actor"] for row in rows} == {person.id}
    everything = "".join(row["detail"] for row in rows)
    assert made["key"]["secret"] not in everything
    assert PASSWORD not in everything


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"slug": "admin"}, "reserved"),
        ({"slug": "-x"}, "hyphen"),
        ({"slug": "xn--a"}, "IDNA"),
        ({"email": "not an address"}, "email address"),
        ({"password": "short"}, "12 characters"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_sentence(
    control: ControlRig, changes: dict[str, object], sentence: str
) -> None:
    answer = await control.call("POST", "/v1/signup", json=body(**changes))
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_password_is_not_the_email_and_never_repeated(control: ControlRig) -> None:
    wanted = body()
    wanted["password"] = str(wanted["email"])
    answer = await control.call("POST", "/v1/signup", json=wanted)
    assert answer.status_code == 422
    short = await control.call("POST", "/v1/signup", json=body(password="hunter2!"))
    assert "hunter2!" not in short.text


async def test_a_name_that_is_taken_is_a_conflict_and_leaves_no_account(control: ControlRig) -> None:
    made, _ = await control.sign_up()
    slug = made["tenant"]["slug"]
    wanted = body(slug, email=f"second-{slug}@example.com")
    again = await control.call("POST", "/v1/signup", json=wanted)
    assert again.status_code == 409
    assert "already" in again.json()["detail"]
    rows = await as_owner(control.settings.database_url, "SELECT 1 FROM users WHERE email = $1", wanted["email"])
    assert rows == []


async def test_somebody_who_is_known_is_told_to_sign_in_but_by_the_right_password_only(control: ControlRig) -> None:
    _, person = await control.sign_up()
    wrong = await control.call("POST", "/v1/signup", json=body(email=person.email, password="x" * 12))
    assert (wrong.status_code, wrong.json()["detail"]) == (401, "Email or password is wrong.")
    right = await control.call("POST", "/v1/signup", json=body(email=person.email))
    assert right.status_code == 409
    slug = f"further-{secrets.token_hex(3)}"
    further = await control.call("POST", "/v1/tenants", person.token, {"slug": slug})
    assert further.status_code == 201
    assert further.json()["key"]["secret"].startswith("tlk_")
    listed = await control.call("GET", "/v1/tenants", person.token)
    assert {"tenant": slug, "role": "owner"} in listed.json()["items"]


async def test_where_signing_up_is_closed_nobody_may(control: ControlRig) -> None:
    url = await control.platform.api(signup="closed")
    answer = await ControlRig(control.platform, url).call("POST", "/v1/signup", json=body())
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "signup-closed")


async def test_where_signing_up_is_by_invitation_a_code_lets_one_in_once(control: ControlRig) -> None:
    rig = ControlRig(control.platform, await control.platform.api(signup="invite"))
    operator = await control.operator()
    code = (await rig.call("POST", "/v1/operator/signup-codes", operator.token)).json()["code"]
    without = await rig.call("POST", "/v1/signup", json=body())
    assert without.status_code == 403
    assert (await rig.call("POST", "/v1/signup", json=body(code=code))).status_code == 201
    again = await rig.call("POST", "/v1/signup", json=body(code=code))
    assert (again.status_code, again.json()["type"].rpartition("#")[2]) == (403, "signup-closed")
    mine = f"mine-{secrets.token_hex(4)}@example.com"
    made = await rig.call("POST", "/v1/operator/signup-codes", operator.token, {"email": mine})
    named = made.json()["code"]
    assert (await rig.call("POST", "/v1/signup", json=body(code=named))).status_code == 403
    assert (await rig.call("POST", "/v1/signup", json=body(code=named, email=mine))).status_code == 201


async def test_whoever_has_no_good_code_does_not_learn_who_has_an_account(control: ControlRig) -> None:
    _, person = await control.sign_up()
    rig = ControlRig(control.platform, await control.platform.api(signup="invite"))
    emails = (person.email, "nobody-at-all@example.com")
    answers = [await rig.call("POST", "/v1/signup", json=body(code="tlc_guess", email=email)) for email in emails]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert answers[0].json()["detail"] == answers[1].json()["detail"]


async def test_an_address_signs_up_only_so_often(control: ControlRig) -> None:
    rig = ControlRig(control.platform, await control.platform.api(signup_rate=2.0, redis_prefix="throttled:"))
    answers = [(await rig.call("POST", "/v1/signup", json=body(slug="admin"))).status_code for _ in range(3)]
    assert answers == [422, 422, 429]
    refused = await rig.call("POST", "/v1/signup", json=body())
    assert int(refused.headers["retry-after"]) > 60
