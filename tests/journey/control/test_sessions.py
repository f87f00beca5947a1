from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import asyncpg
import pytest
from tests.control import PASSWORD, ControlRig, Person
from tests.stores import as_owner

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def signed_in(control: ControlRig, person: Person) -> tuple[str, str]:
    """A browser's cookie, and what goes into X-CSRF-Token."""
    answer = await control.call("POST", "/v1/sessions", json={"email": person.email, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return answer.headers["set-cookie"].partition(";")[0], answer.json()["csrf_token"]


async def test_a_cookie_and_its_csrf_token_are_good_until_signing_out(control: ControlRig) -> None:
    _, person = await control.sign_up()
    cookie, csrf = await signed_in(control, person)
    me = await control.call("GET", "/v1/me", cookie=cookie)
    assert me.json() == {"id": person.id, "email": person.email, "name": me.json()["name"]}
    shown = await control.call("GET", "/v1/sessions/current", cookie=cookie)
    assert shown.json()["csrf_token"] == csrf
    out = await control.call("DELETE", "/v1/sessions/current", cookie=cookie, **{"x-csrf-token": csrf})
    assert out.status_code == 204
    assert "Max-Age=0" in out.headers["set-cookie"]
    again = await control.call("GET", "/v1/me", cookie=cookie)
    assert (again.status_code, again.json()["detail"]) == (401, "This sign-in has ended; sign in again.")


async def test_a_change_by_cookie_needs_proof_that_it_comes_from_our_page(control: ControlRig) -> None:
    _, person = await control.sign_up()
    cookie, csrf = await signed_in(control, person)

    async def change(**headers: str) -> int:
        return (await control.call("PATCH", "/v1/me", json={"name": "x"}, cookie=cookie, **headers)).status_code

    good = {"x-csrf-token": csrf}
    own = control.settings.public_url
    assert await change() == 403
    assert await change(**{"x-csrf-token": csrf[:-1]}) == 403
    assert await change(**good, origin="http://localhost:3000") == 403
    assert await change(**good, origin=own) == 200
    assert await change(**good) == 200


async def test_an_authorization_header_decides_and_nothing_else_is_tried(control: ControlRig) -> None:
    _, person = await control.sign_up()
    cookie, _ = await signed_in(control, person)
    for header in ("Bearer tls_nothing", "Bearer", "Basic abc", "Bearer what", "Bearer tlk_a.b.c"):
        answer = await control.call("GET", "/v1/me", cookie=cookie, authorization=header)
        assert answer.status_code == 401, header
        assert answer.headers["www-authenticate"].startswith("Bearer")
    # A cookie's secret is no token, and a token is no cookie.
    secret = cookie.partition("=")[2]
    assert (await control.call("GET", "/v1/me", secret)).status_code == 401
    name = cookie.partition("=")[0]
    assert (await control.call("GET", "/v1/me", cookie=f"{name}={person.token}")).status_code == 401


async def test_only_digests_of_secrets_are_stored(control: ControlRig) -> None:
    _, person = await control.sign_up()
    cookie, _ = await signed_in(control, person)
    rows = await as_owner(control.settings.database_url, "SELECT t::text FROM sign_ins t", task="account")
    stored = "".join(row[0] for row in rows)
    assert person.token not in stored
    assert cookie.partition("=")[2] not in stored
    hashes = await as_owner(control.settings.database_url, "SELECT hash FROM passwords", task="account")
    assert all(row["hash"].startswith("$argon2id$") for row in hashes)


async def test_wrong_password_and_unknown_account_look_the_same(control: ControlRig) -> None:
    _, person = await control.sign_up()
    answers = []
    for email in (person.email, "nobody-at-all@example.com"):
        answer = await control.call("POST", "/v1/tokens", json={"email": email, "password": "wrong"})
        problem = answer.json()
        problem.pop("instance")
        answers.append((answer.status_code, problem))
    assert answers[0] == answers[1]
    assert answers[0][1]["detail"] == "Email or password is wrong."


async def test_sign_ins_are_listed_and_ended_one_by_one_and_all_at_once(control: ControlRig) -> None:
    _, person = await control.sign_up()
    second = await control.token(person.email)
    listed = (await control.call("GET", "/v1/sessions", second)).json()["items"]
    assert sorted(each["kind"] for each in listed) == ["cookie", "token", "token"]
    current = [each for each in listed if each["current"]]
    assert len(current) == 1
    assert current[0]["address"] == "127.0.0.1"
    _, other = await control.sign_up()
    stolen = await control.call("DELETE", f"/v1/sessions/{current[0]['id']}", other.token)
    assert stolen.status_code == 404
    ended = await control.call("DELETE", f"/v1/sessions/{current[0]['id']}", person.token)
    assert ended.status_code == 204
    assert (await control.call("GET", "/v1/me", second)).status_code == 401
    assert (await control.call("DELETE", "/v1/sessions", person.token)).status_code == 204
    assert (await control.call("GET", "/v1/me", person.token)).status_code == 401


async def test_a_new_password_ends_every_other_sign_in(control: ControlRig) -> None:
    _, person = await control.sign_up()
    other = await control.token(person.email)
    wrong = {"current": "not it", "new": "another good password"}
    assert (await control.call("PUT", "/v1/me/password", person.token, wrong)).status_code == 401
    weak = {"current": PASSWORD, "new": person.email}
    assert (await control.call("PUT", "/v1/me/password", person.token, weak)).status_code == 422
    good = {"current": PASSWORD, "new": "another good password"}
    assert (await control.call("PUT", "/v1/me/password", person.token, good)).status_code == 204
    assert (await control.call("GET", "/v1/me", person.token)).status_code == 200
    assert (await control.call("GET", "/v1/me", other)).status_code == 401
    assert await control.token(person.email, "another good password")


async def test_who_signs_in_is_in_the_log_of_the_platform_and_who_fails_too(control: ControlRig) -> None:
    _, person = await control.sign_up()
    await control.call("POST", "/v1/tokens", json={"email": person.email, "password": "wrong"})
    query = "SELECT action, actor, target, outcome FROM audit_events WHERE tenant_id = $1 AND $2 IN (actor, target)"
    rows = await as_owner(control.settings.database_url, query, "0" * 32, person.id)
    assert {(row["action"], row["outcome"]) for row in rows} == {("session.create", "ok"), ("session.fail", "error")}


async def test_many_wrong_passwords_are_few_events_at_every_door(
    control: ControlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, owner = await control.sign_up()
    _, person = await control.sign_up()
    path = f"/v1/tenants/{made['tenant']['slug']}/invitations"
    link = (await control.call("POST", path, owner.token, {"email": person.email, "role": "auditor"})).json()["link"]
    sign_in = {"email": person.email, "password": "it is quite wrong"}
    doors = (
        ("POST", "/v1/tokens", sign_in, ""),
        ("POST", "/v1/signup", {**sign_in, "slug": "some-slug"}, ""),
        ("POST", "/v1/invitations/accept", {"secret": link.partition("#")[2], "password": "it is quite wrong"}, ""),
        ("PUT", "/v1/me/password", {"current": "it is quite wrong", "new": "another good password"}, person.token),
    )

    async def fail_at_all() -> list[dict]:
        for method, where, body, token in doors:
            assert (await control.call(method, where, token, body)).status_code == 401, where
        query = "SELECT detail FROM audit_events WHERE action = 'session.fail' AND target = $1 ORDER BY seq"
        rows = await as_owner(control.settings.database_url, query, person.id)
        return [json.loads(row["detail"]) for row in rows]

    assert await fail_at_all() == [{"door": "sign-in", "failures": 1}]
    monkeypatch.setattr("trunkline.tenants.failures.EVERY", 0.0)
    assert [row["door"] for row in (await fail_at_all())[1:]] == ["sign-in", "sign-up", "invitation", "password"]
    assert [row["failures"] for row in await fail_at_all()][:2] == [1, 4]


async def test_guessing_is_slowed_down_for_the_address_and_for_the_account(control: ControlRig) -> None:
    _, person = await control.sign_up()
    url = await control.platform.api(account_rate=2.0, redis_prefix="guessing-account:")
    guess = {"email": person.email, "password": "wrong"}
    rig = ControlRig(control.platform, url)
    answers = [(await rig.call("POST", "/v1/tokens", json=guess)).status_code for _ in range(3)]
    assert answers == [401, 401, 429]
    other = await rig.call("POST", "/v1/tokens", json={**guess, "email": "unknown@example.com"})
    assert other.status_code == 401
    rig = ControlRig(control.platform, await control.platform.api(sign_in_rate=2.0, redis_prefix="guessing-address:"))
    answers = []
    for number in range(3):
        guess = {"email": f"unknown-{number}@example.com", "password": "wrong"}
        answers.append((await rig.call("POST", "/v1/tokens", json=guess)).status_code)
    assert answers == [401, 401, 429]


async def test_guessing_from_elsewhere_keeps_nobody_out(control: ControlRig) -> None:
    _, person = await control.sign_up()
    operator = await control.operator()
    url = await control.platform.api(account_rate=2.0, redis_prefix="guessing-elsewhere:")
    rig = ControlRig(control.platform, url)
    for path, who in (("/v1/tokens", person), ("/v1/operator/sessions", operator)):
        wrong, right = ({"email": who.email, "password": word} for word in ("wrong", PASSWORD))
        if who is operator:
            right["token"] = True
        for number in range(6):
            # One subscriber's addresses, all of one /64, are one.
            headers = {"x-forwarded-for": f"2001:db8::{number}"}
            guess = await rig.call("POST", path, json=wrong, **headers)
            assert guess.status_code == (401 if number < 2 or who is operator else 429)
        assert (await rig.call("POST", path, json=right, **{"x-forwarded-for": "192.0.2.1"})).status_code == 201


async def test_over_http_from_elsewhere_cookies_are_refused_and_tokens_work(control: ControlRig) -> None:
    _, person = await control.sign_up()
    url = await control.platform.api(public_url="http://trunkline.example", allowed_hosts=("*",))
    rig = ControlRig(control.platform, url)
    refused = await rig.call("POST", "/v1/sessions", json={"email": person.email, "password": PASSWORD})
    assert (refused.status_code, refused.json()["type"].rpartition("#")[2]) == (403, "insecure-transport")
    assert await rig.token(person.email)
    by_cookie = await rig.call("GET", "/v1/me", cookie="trunkline-dev=anything")
    assert by_cookie.status_code == 403


async def test_over_https_the_cookie_has_the_prefix_that_keeps_it_to_this_host(control: ControlRig) -> None:
    _, person = await control.sign_up()
    url = await control.platform.api(public_url="https://trunkline.example", allowed_hosts=("*",))
    rig = ControlRig(control.platform, url)
    answer = await rig.call("POST", "/v1/sessions", json={"email": person.email, "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-trunkline=")
    assert all(part in cookie for part in ("; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"))
    assert "Domain" not in cookie


async def test_an_api_key_is_no_person(control: ControlRig) -> None:
    made, _ = await control.sign_up()
    answer = await control.call("GET", "/v1/me", made["key"]["secret"])
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "forbidden")


async def test_each_caller_has_an_allowance_of_its_own(control: ControlRig) -> None:
    _, person = await control.sign_up()
    _, other = await control.sign_up()
    rig = ControlRig(control.platform, await control.platform.api(control_rate=0.01, control_burst=5))
    first = await rig.call("GET", "/v1/me", person.token)
    assert (first.status_code, first.headers["ratelimit-policy"]) == (200, '"control";q=5;w=500')
    left = [await rig.call("GET", "/v1/me", person.token) for _ in range(6)]
    assert [answer.status_code for answer in left] == [200] * 5 + [429]
    assert left[0].headers["ratelimit"].startswith('"control";r=4;')
    assert left[-1].headers["ratelimit"].startswith('"control";r=0;')
    assert int(left[-1].headers["retry-after"]) > 0
    assert (await rig.call("GET", "/v1/me", other.token)).status_code == 200


async def test_a_forgotten_password_is_chosen_anew_once_and_ends_every_sign_in(control: ControlRig) -> None:
    _, person = await control.sign_up()
    void, secret = await control.reset(person.email), await control.reset(person.email)

    async def accept(secret: str, password: str) -> int:
        body = {"secret": secret, "password": password}
        return (await control.call("POST", "/v1/password-resets/accept", json=body)).status_code

    assert await accept(void, "another " + PASSWORD) == 404
    assert await accept(secret, person.email) == 422
    both = await asyncio.gather(*(accept(secret, "another " + PASSWORD) for _ in range(2)))
    assert sorted(both) == [204, 404]
    assert (await control.call("GET", "/v1/me", person.token)).status_code == 401
    assert await control.token(person.email, "another " + PASSWORD)
    rows = await as_owner(control.settings.database_url, "SELECT digest FROM password_resets", task="account")
    assert rows == []


async def test_somebody_who_is_disabled_is_nobody_until_they_are_enabled(control: ControlRig) -> None:
    _, person = await control.sign_up()
    secret = await control.reset(person.email)
    await control.user("disable", person.email)
    assert (await control.call("GET", "/v1/me", person.token)).status_code == 401
    right = {"email": person.email, "password": PASSWORD}
    assert (await control.call("POST", "/v1/tokens", json=right)).status_code == 401
    body = {"secret": secret, "password": "another " + PASSWORD}
    assert (await control.call("POST", "/v1/password-resets/accept", json=body)).status_code == 404
    await control.user("enable", person.email)
    assert await control.token(person.email)
    query = "SELECT action FROM audit_events WHERE tenant_id = $1 AND target = $2 ORDER BY seq"
    rows = await as_owner(control.settings.database_url, query, "0" * 32, person.id)
    told = [row["action"] for row in rows if row["action"] != "session.fail"]
    assert told[-3:] == ["password.reset", "user.disable", "user.enable"]


async def age(control: ControlRig, person: Person, seen: str, made: str) -> None:
    """As if the user's cookies had been made and used so long ago."""
    statement = (
        f"UPDATE sign_ins SET last_seen_at = now() - interval '{seen}', created_at = now() - interval '{made}' "
        "WHERE user_id = $1 AND kind = 'cookie'"
    )
    await as_owner(control.settings.database_url, statement, person.id, task="account")


async def test_a_cookie_that_is_used_lives_on_for_a_week_at_most(control: ControlRig) -> None:
    _, person = await control.sign_up()
    cookie, _ = await signed_in(control, person)
    left = []
    for made in ("1 day", "6 days 23 hours"):
        await age(control, person, "2 minutes", made)
        current = await control.call("GET", "/v1/sessions/current", cookie=cookie)
        until = datetime.fromisoformat(current.json()["expires_at"])
        left.append(round((until - datetime.now(UTC)).total_seconds() / 3600))
    assert left == [12, 1]


async def test_a_cookie_that_is_ended_while_it_is_used_is_nobodys(control: ControlRig) -> None:
    _, person = await control.sign_up()
    cookie, _ = await signed_in(control, person)
    await age(control, person, "2 minutes", "1 hour")
    connection = await asyncpg.connect(control.settings.database_url)
    await connection.execute("SET trunkline.scope = 'account'")
    ending = connection.transaction()
    await ending.start()
    await connection.execute("DELETE FROM sign_ins WHERE user_id = $1", person.id)
    used = asyncio.create_task(control.call("GET", "/v1/me", cookie=cookie))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE sign_ins%'"
    for _ in range(500):
        if await as_owner(control.settings.database_url, waiting):
            break
        await asyncio.sleep(0.01)
    await ending.commit()
    await connection.close()
    assert (await used).status_code == 401


async def test_an_operator_gives_out_a_link_to_a_new_password(control: ControlRig) -> None:
    _, person = await control.sign_up()
    operator = await control.operator()
    made = await control.call("POST", "/v1/operator/users/reset", operator.token, {"email": person.email})
    assert made.status_code == 200
    secret = made.json()["link"].partition("/reset#")[2]
    body = {"secret": secret, "password": "another " + PASSWORD}
    assert (await control.call("POST", "/v1/password-resets/accept", json=body)).status_code == 204
    assert await control.token(person.email, "another " + PASSWORD)
    unknown = await control.call("POST", "/v1/operator/users/reset", operator.token, {"email": "no@example.com"})
    assert unknown.status_code == 404


async def test_a_new_password_of_an_operator_ends_their_sign_ins(control: ControlRig) -> None:
    operator = await control.operator()
    async with control.operators() as operators:
        await operators.set_password(operator.email, "another " + PASSWORD)
    assert (await control.call("GET", "/v1/operator/tenants", operator.token)).status_code == 401
    for password, status in ((PASSWORD, 401), ("another " + PASSWORD, 201)):
        body = {"email": operator.email, "password": password, "token": True}
        assert (await control.call("POST", "/v1/operator/sessions", json=body)).status_code == status
