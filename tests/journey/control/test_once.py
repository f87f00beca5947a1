"""Requests that make something, sent twice."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tests.control import PASSWORD, ControlRig

from trunkline.db import find_outage
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.streams.keys import Keys
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.members import Members

pytestmark = pytest.mark.asyncio(loop_scope="module")


def invitation() -> dict[str, str]:
    return {"email": f"{secrets.token_hex(4)}@example.com", "role": "auditor"}


def named(key: str = "") -> dict[str, str]:
    return {"idempotency-key": key or secrets.token_hex(8)}


async def invited(control: ControlRig, slug: str, token: str) -> int:
    return len((await control.call("GET", f"/v1/tenants/{slug}/invitations", token)).json()["items"])


async def test_a_request_sent_again_has_the_same_answer_and_makes_nothing_more(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug, body, key = made["tenant"]["slug"], invitation(), named()
    path = f"/v1/tenants/{slug}/invitations"
    first = await control.call("POST", path, owner.token, body, **key)
    again = await control.call("POST", path, owner.token, body, **key)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    assert await invited(control, slug, owner.token) == 1


async def test_without_a_key_every_request_runs(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    for _ in range(2):
        path = f"/v1/tenants/{made['tenant']['slug']}/invitations"
        assert (await control.call("POST", path, owner.token, invitation())).status_code == 201
    assert await invited(control, made["tenant"]["slug"], owner.token) == 2


async def test_signing_up_again_gives_the_same_key_and_the_same_cookie(control: ControlRig) -> None:
    slug = f"t-{secrets.token_hex(4)}"
    body = {"slug": slug, "email": f"{slug}@example.com", "password": PASSWORD}
    key = named()
    first = await control.call("POST", "/v1/signup", json=body, **key)
    again = await control.call("POST", "/v1/signup", json=body, **key)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["set-cookie"] == first.headers["set-cookie"]
    assert again.headers["location"] == first.headers["location"] == f"/v1/tenants/{slug}"
    other = await control.call("POST", "/v1/signup", json=body | {"password": "another " + PASSWORD}, **key)
    assert other.status_code == 422
    assert other.json()["type"].endswith("#idempotency-mismatch")


async def test_a_key_of_somebody_else_is_none_of_mine(control: ControlRig) -> None:
    key = named()
    paths = []
    for _ in range(2):
        made, owner = await control.sign_up()
        paths.append((f"/v1/tenants/{made['tenant']['slug']}/invitations", owner.token))
    body = invitation()
    for path, token in paths:
        answer = await control.call("POST", path, token, body, **key)
        assert answer.status_code == 201
        assert "idempotency-replayed" not in answer.headers


async def test_what_was_refused_frees_the_key(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    key = named()
    taken = {"slug": made["tenant"]["slug"], "name": "Mine"}
    assert (await control.call("POST", "/v1/tenants", owner.token, taken, **key)).status_code == 409
    free = {"slug": f"t-{secrets.token_hex(4)}", "name": "Mine"}
    assert (await control.call("POST", "/v1/tenants", owner.token, free, **key)).status_code == 201


@pytest.mark.parametrize("where", ["throttle", "passwords", "pool"])
async def test_what_was_not_begun_frees_the_key(
    control: ControlRig, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    slug, key = f"t-{secrets.token_hex(4)}", named()
    body = {"slug": slug, "email": f"{slug}@example.com", "password": PASSWORD}
    with monkeypatch.context() as busy:
        if where == "throttle":
            busy.setattr("trunkline.tenants.people.Doors.sign_up", away)
        elif where == "passwords":
            busy.setattr("trunkline.tenants.passwords._MOST_WAITING", -2)
        else:
            busy.setattr("trunkline.tenants.accounts.known", no_connection)
        assert (await control.call("POST", "/v1/signup", json=body, **key)).status_code == 503
    assert (await control.call("POST", "/v1/signup", json=body, **key)).status_code == 201


async def away(*_: object) -> None:
    redis = type("Lost", (), {"keys": Keys(Settings(environment="dev")), "script": lost})()
    await RedisThrottle(redis).check("kind", "who", 1.0, 1)


async def lost(*_: object) -> None:
    raise Unavailable("Redis is away; try again shortly.", retry_after=1)


async def no_connection(*_: object) -> None:
    away = find_outage(PoolTimeout())
    assert away is not None
    raise away


async def test_of_many_at_once_one_runs(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug, body, key = made["tenant"]["slug"], invitation(), named()
    path = f"/v1/tenants/{slug}/invitations"
    answers = await asyncio.gather(*(control.call("POST", path, owner.token, body, **key) for _ in range(8)))
    ran = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in ran}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in ran) == 1
    for waiting in (answer for answer in answers if answer.status_code != 201):
        assert waiting.status_code == 409
        assert waiting.headers["retry-after"] == "1"
        assert waiting.json()["type"].endswith("#idempotency-running")
    assert await invited(control, slug, owner.token) == 1


async def test_where_a_store_went_away_it_is_not_run_again(
    control: ControlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, owner = await control.sign_up()
    slug, body, key = made["tenant"]["slug"], invitation(), named()
    path = f"/v1/tenants/{slug}/invitations"
    original = Members.invite

    async def stored_and_lost(*arguments: Any) -> Any:
        await original(*arguments)
        raise Unavailable("Redis went away.")

    monkeypatch.setattr(Members, "invite", stored_and_lost)
    assert (await control.call("POST", path, owner.token, body, **key)).status_code == 503
    monkeypatch.undo()
    again = await control.call("POST", path, owner.token, body, **key)
    assert again.status_code == 409
    assert again.json()["type"].endswith("#idempotency-running")
    assert await invited(control, slug, owner.token) == 1


@pytest.mark.parametrize("key", ["x" * 129, "with space", "ümlaut"])
async def test_a_key_is_plain_text_of_128_characters(control: ControlRig, key: str) -> None:
    made, owner = await control.sign_up()
    path = f"/v1/tenants/{made['tenant']['slug']}/invitations"
    async with control.client(owner.token) as http:
        raw = [(b"idempotency-key", key.encode("latin-1"))]
        answer = await http.post(path, json=invitation(), headers=raw)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "header/Idempotency-Key"


async def test_every_post_that_makes_something_takes_a_key(control: ControlRig) -> None:
    described = (await control.call("GET", "/openapi.json")).json()
    takers = {
        path
        for path, methods in described["paths"].items()
        for parameter in methods.get("post", {}).get("parameters", ())
        if parameter["name"] == "Idempotency-Key"
    }
    made_by_post = {
        path for path, methods in described["paths"].items() if "201" in methods.get("post", {}).get("responses", ())
    }
    # These make a sign-in alone, or nothing twice: an invitation's secret and a code are good for one use.
    others = {"/v1/sessions", "/v1/tokens", "/v1/operator/sessions", "/v1/invitations/accept"}
    assert takers >= made_by_post - others
    assert [path for path in takers if "409" not in described["paths"][path]["post"]["responses"]] == []
