"""Who gets what at every route that there is, with every credential; the routes are the application's own."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from tests.control import ControlRig, Person, Place, World
from tests.journey.control.samples import SAMPLES, Params, Sample, host_weather
from tests.stores import as_owner

from trunkline.api.control.app import make_control, permission_of, routes
from trunkline.tenants.model import SCOPES
from trunkline.tenants.roles import ROLES, SCOPE_PERMISSIONS

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES: Mapping[tuple[str, str], APIRoute] = {
    (method, route.path): route
    for route in routes(make_control(cast("Any", None)))
    for method in sorted(route.methods)
}
OK = 200
NOT_ANY_MORE = ("nobody", "revoked", "expired")
STRANGERS = ("other owner", "other key", "no tenant", "operator")
PEOPLE = (*ROLES, "other owner", "no tenant")
KEYS = tuple(f"key {scope}" for scope in sorted(SCOPES))
PRINCIPALS = (*NOT_ANY_MORE, *STRANGERS, *ROLES, *KEYS)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def workers_host_one(control: ControlRig) -> None:
    await host_weather(control)


def credentials(world: World) -> dict[str, str]:
    acme = world.acme
    return {
        "nobody": "",
        "revoked": acme.revoked_key,
        "expired": acme.expired_key,
        "other owner": world.other.owner.token,
        "other key": world.other.keys["tenant:admin"],
        "no tenant": world.nobody.token,
        "operator": world.operator.token,
        **{role: person.token for role, person in acme.people.items()},
        **{f"key {scope}": secret for scope, secret in acme.keys.items()},
    }


def expected(permission: str, who: str) -> int:
    """What the table of roles says of somebody at a route that asks for a permission."""
    if permission == "public":
        return OK
    if who in NOT_ANY_MORE:
        return 401
    if permission in {"known", "user", "operator"}:
        allowed = {"known": PRINCIPALS, "user": PEOPLE, "operator": ("operator",)}[permission]
        return OK if who in allowed else 403
    if who in STRANGERS:
        return 404
    holds = ROLES[who] if who in ROLES else SCOPE_PERMISSIONS[who.removeprefix("key ")]
    return OK if permission in holds else 403


def url_of(path: str, sample: Sample, place: Place, params: Params) -> str:
    return path.format(**{"tenant": place.slug, **params}) + sample.query


async def begin(rig: ControlRig, url: str, credential: str) -> int:
    """The status of an answer that does not end by itself; whoever reads it hangs up."""
    place = urlsplit(rig.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET {url} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {credential}\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(status.split()[1])


async def test_every_route_has_a_sample_and_every_sample_a_route() -> None:
    assert set(ROUTES) == set(SAMPLES)


async def test_every_route_of_a_tenant_asks_for_something_of_that_tenant() -> None:
    """What names a tenant in its path is decided by who the caller is there, or is the operators'."""
    for (_, path), route in ROUTES.items():
        asked = permission_of(route)
        if path.startswith("/v1/operator/") and path != "/v1/operator/sessions":
            assert asked == "operator", path
        elif "{tenant}" in path:
            assert ":" in asked or asked == "operator", path


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES), ids=lambda value: value)
async def test_each_credential_gets_what_the_table_says(
    control: ControlRig, world: World, method: str, path: str
) -> None:
    sample, route = SAMPLES[method, path], ROUTES[method, path]
    permission = permission_of(route)
    params = await sample.make(control, world.acme)
    url, body = url_of(path, sample, world.acme, params), sample.body({"tenant": "acme", **params})
    allowed = []
    known = credentials(world)
    for who in ("nobody", "revoked", "owner") if permission == "public" else known:
        credential, wanted = known[who], expected(permission, who)
        wanted = sample.refused.get(who, wanted) if wanted == OK else wanted
        if wanted == OK:
            allowed.append((who, credential))
            continue
        answer = await control.call(method, url, credential, body)
        assert answer.status_code == wanted, (who, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", who
        assert ("www-authenticate" in answer.headers) == (wanted == 401), who
    assert allowed, "a route that nobody may use"
    if sample.alone:
        allowed = []
    for who, credential in allowed:
        # The first one does it to what all the others were refused, which must be as it was.
        if sample.stream:
            assert await begin(control, url, credential) == OK, who
            continue
        answer = await control.call(method, url, credential, body)
        assert answer.status_code == (route.status_code or OK), (who, answer.text)
        if method != "GET":
            params = await sample.make(control, world.acme)
            url, body = url_of(path, sample, world.acme, params), sample.body({"tenant": "acme", **params})


@pytest.mark.parametrize(
    ("method", "path"), sorted(key for key in ROUTES if key[0] != "GET"), ids=lambda value: value
)
async def test_each_change_is_in_the_audit_log_with_who_and_from_where(
    control: ControlRig, world: World, method: str, path: str
) -> None:
    sample, route = SAMPLES[method, path], ROUTES[method, path]
    place, who = world.acme, world.operator
    if permission_of(route) != "operator":
        place, who = await somebody(control, world, sample)
    elif sample.alone:
        who = await control.operator()
    params = await sample.make(control, place)
    before = await entries(control)
    url, body = url_of(path, sample, place, params), sample.body({"tenant": place.slug, **params})
    answer = await control.call(method, url, who.token, body)
    assert answer.status_code == (route.status_code or OK), answer.text
    added = [entry for entry in await entries(control) if entry["id"] not in {each["id"] for each in before}]
    assert len(added) == sample.events, added
    for entry in added:
        assert entry["outcome"] == "ok"
        assert (entry.get("address") or entry["detail"].get("address")) == "127.0.0.1"
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", entry["action"])
        if permission_of(route) != "public":
            assert entry["actor"] == who.id


async def somebody(control: ControlRig, world: World, sample: Sample) -> tuple[Place, Person]:
    """An owner; one with a tenant of their own where nothing of it is left afterwards."""
    if not sample.alone:
        return world.acme, world.acme.owner
    made, owner = await control.sign_up()
    return Place(made["tenant"]["slug"], made["tenant"]["id"], {"owner": owner}), owner


async def entries(control: ControlRig) -> list[dict[str, Any]]:
    rows = await as_owner(control.settings.database_url, "SELECT to_jsonb(e)::text FROM audit_events e", task="audit")
    return [orjson.loads(row[0]) for row in rows]


@pytest.mark.parametrize(
    ("method", "path"), sorted(key for key, sample in SAMPLES.items() if sample.own), ids=lambda value: value
)
async def test_what_is_somebody_elses_is_not_there(control: ControlRig, world: World, method: str, path: str) -> None:
    sample = SAMPLES[method, path]
    mine = await sample.make(control, world.acme)
    theirs = await sample.make(control, world.other)
    owner = world.acme.owner.token
    never = {name: never_was(theirs[name]) for name in sample.own}
    body = sample.body({"tenant": "acme", **mine})
    foreign = await control.call(method, url_of(path, sample, world.acme, {**mine, **theirs}), owner, body)
    unknown = await control.call(method, url_of(path, sample, world.acme, {**mine, **never}), owner, body)
    assert foreign.status_code == unknown.status_code == 404, foreign.text
    assert told(foreign, theirs, sample) == told(unknown, never, sample)
    if "{tenant}" in path:
        elsewhere = await control.call(method, url_of(path, sample, world.other, mine), owner, body)
        nowhere = await control.call(
            method, url_of(path, sample, world.other, {**mine, "tenant": "there-is-none"}), owner, body
        )
        assert elsewhere.status_code == nowhere.status_code == 404
        assert told(elsewhere, mine, sample) == told(nowhere, mine, sample)
    still = await control.call(
        method, url_of(path, sample, world.other, theirs), world.other.owner.token, sample.body(theirs)
    )
    assert still.status_code == (ROUTES[method, path].status_code or OK), "somebody else's is as it was"


def never_was(identity: str) -> str:
    """An id of the same form that nothing ever had."""
    return re.sub(r"[0-9a-f]{32,}$", lambda found: secrets.token_hex(len(found[0]) // 2), identity)


def told(answer: httpx2.Response, params: Params, sample: Sample) -> tuple[Any, dict[str, str]]:
    """All that an answer tells, but for the request's own id, and the id that was asked for."""
    body = answer.json()
    del body["instance"]
    text = orjson.dumps(body).decode()
    for name in sample.own:
        text = text.replace(params[name], "<id>")
    varying = {"x-request-id", "date", "ratelimit", "content-length"}
    return text, {name: value for name, value in answer.headers.items() if name not in varying}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_tenant_of_others_is_told_from_no_tenant_by_nothing(
    control: ControlRig, world: World, method: str
) -> None:
    for (verb, path), sample in SAMPLES.items():
        if verb != method or "{tenant}" not in path or path.startswith("/v1/operator") or sample.stream:
            continue
        if permission_of(ROUTES[verb, path]) == "operator":
            continue
        ids = dict.fromkeys(re.findall(r"{(\w+)}", path), secrets.token_hex(16))
        body = sample.body({"tenant": "other", "secret": "x", **ids})
        for credential in (world.acme.owner.token, world.acme.keys["tenant:admin"], world.nobody.token):
            answers = [
                await control.call(verb, path.format(**{**ids, "tenant": slug}), credential, body)
                for slug in ("other", "there-is-none")
            ]
            assert [answer.status_code for answer in answers] == [404, 404], (path, answers[0].text)
            assert told(answers[0], ids, Sample()) == told(answers[1], ids, Sample()), path
