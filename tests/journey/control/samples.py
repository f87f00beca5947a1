"""How each route of the control plane is called so that it succeeds. A route without a sample fails the matrix."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, SecretStr
from tests.control import PASSWORD, ControlRig, Person, Place

from trunkline.db import Database
from trunkline.tenants import hosted
from trunkline.tenants.hosted import HostedToolset
from trunkline.toolsets.configurable import schema_of

Params = dict[str, str]
Make = Callable[[ControlRig, Place], Awaitable[Params]]


def email() -> str:
    return f"{secrets.token_hex(6)}@example.com"


def slug() -> str:
    return f"t-{secrets.token_hex(6)}"


async def account(rig: ControlRig, place: Place) -> Params:
    return {"email": place.owner.email, "operator": (await rig.operator()).email}


async def nothing(_rig: ControlRig, _place: Place) -> Params:
    return {}


async def post(rig: ControlRig, path: str, token: str, body: object) -> dict:
    answer = await rig.call("POST", path, token, body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def calm(rig: ControlRig) -> None:
    """Forget who has tried what how often: a tenant invites some twenty people an hour."""
    redis = rig.platform.redis
    for key in await redis.command("KEYS", redis.keys.throttle("*", "*")):
        await redis.command("DEL", key)


async def invitation(rig: ControlRig, place: Place) -> Params:
    await calm(rig)
    body = {"email": email(), "role": "auditor"}
    made = await post(rig, f"/v1/tenants/{place.slug}/invitations", place.owner.token, body)
    return {"invitation": made["id"], "secret": made["link"].partition("#")[2]}


async def reset(rig: ControlRig, _place: Place) -> Params:
    """For somebody of their own, whose sign-ins end."""
    await calm(rig)
    _, person = await rig.sign_up()
    return {"secret": await rig.reset(person.email)}


async def stranger(rig: ControlRig, _place: Place) -> Params:
    _, person = await rig.sign_up()
    return {"email": person.email}


async def locked_out(rig: ControlRig, place: Place) -> Params:
    made = await stranger(rig, place)
    await rig.user("disable", made["email"])
    return made


async def member(rig: ControlRig, place: Place) -> Params:
    await calm(rig)
    return {"user": (await rig.join(place.slug, place.owner, "developer")).id}


async def sign_in(rig: ControlRig, place: Place) -> Params:
    """A further sign-in of the tenant's owner."""
    await rig.token(place.owner.email)
    listed = (await rig.call("GET", "/v1/sessions", place.owner.token)).json()["items"]
    return {"session": next(each["id"] for each in listed if not each["current"])}


async def key(rig: ControlRig, place: Place) -> Params:
    _, record = await rig.platform.keys.issue(place.slug, name="made for a sample")
    return {"key_id": record.id}


async def toolset_off(rig: ControlRig, place: Place) -> Params:
    path = f"/v1/tenants/{place.slug}/toolsets/weather"
    assert (await rig.call("PUT", path, place.owner.token)).status_code == 200
    assert (await rig.call("DELETE", path, place.owner.token)).status_code == 200
    return {"name": "weather"}


async def toolset_on(rig: ControlRig, place: Place) -> Params:
    path = f"/v1/tenants/{place.slug}/toolsets/weather"
    assert (await rig.call("PUT", path, place.owner.token)).status_code == 200
    body = {"config": {"token": secrets.token_hex(4)}}
    assert (await rig.call("PUT", f"{path}/config", place.owner.token, body)).status_code == 200
    return {"name": "weather"}


async def entry(rig: ControlRig, place: Place) -> Params:
    listed = await rig.call("GET", f"/v1/tenants/{place.slug}/audit?action=tenant.create", place.owner.token)
    return {"entry": listed.json()["items"][0]["id"]}


async def tenant_of_nobody(rig: ControlRig, _place: Place) -> Params:
    return {"tenant": (await rig.platform.tenants.create(slug())).slug}


async def suspended(rig: ControlRig, place: Place) -> Params:
    made = await tenant_of_nobody(rig, place)
    await rig.platform.tenants.suspend(made["tenant"])
    return made


async def code(rig: ControlRig, _place: Place) -> Params:
    return {"code": (await post(rig, "/v1/operator/signup-codes", await operator_of(rig), {}))["id"]}


async def signing_key(rig: ControlRig, _place: Place) -> Params:
    """One that does not sign yet, so that nothing hangs on it."""
    made = await post(rig, "/v1/operator/signing-keys/rotate", await operator_of(rig), {"ahead": "4w"})
    return {"kid": made["kid"]}


_operators: dict[int, Person] = {}


async def operator_of(rig: ControlRig) -> str:
    if id(rig) not in _operators:
        _operators[id(rig)] = await rig.operator()
    return _operators[id(rig)].token


class Weather(BaseModel):
    token: SecretStr | None = None
    region: str = "eu"


async def host_weather(rig: ControlRig) -> None:
    """As if a worker had told that it hosts a toolset with something to configure."""
    database = Database(rig.settings.database_url, process="test")
    await hosted.announce(database, [HostedToolset("weather", "Weather", "weather:server", schema_of(Weather))])
    await database.aclose()


@dataclass(frozen=True)
class Sample:
    """One successful request."""

    make: Make = nothing
    """Makes what the path names, anew each time; names that the path does not have are for the body."""
    body: Callable[[Params], object] = lambda _: None
    query: str = ""
    own: tuple[str, ...] = ()
    """Parts of the path that are ids of a tenant's, or a user's, own: nobody else's are there."""
    events: int = 1
    """Entries of the audit log that it adds, unless it is a GET."""
    alone: bool = False
    """Whoever does it loses their sign-in, password or tenant: somebody of no further use does."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Who is refused though they have the permission, by a further rule."""
    stream: bool = False
    """The answer does not end by itself."""


def fixed(body: object) -> Callable[[Params], object]:
    return lambda _: body


NOT_THEIRS = {"developer": 403}
"""Developers manage the keys that they issued themselves."""

SAMPLES: Mapping[tuple[str, str], Sample] = {
    ("GET", "/v1"): Sample(),
    ("POST", "/v1/signup"): Sample(
        body=lambda _: {"slug": slug(), "email": email(), "password": PASSWORD, "name": "Ada"}, events=2
    ),
    ("POST", "/v1/sessions"): Sample(body=lambda made: {"email": made["email"], "password": PASSWORD}, make=account),
    ("POST", "/v1/tokens"): Sample(body=lambda made: {"email": made["email"], "password": PASSWORD}, make=account),
    ("GET", "/v1/sessions/current"): Sample(),
    ("DELETE", "/v1/sessions/current"): Sample(alone=True),
    ("GET", "/v1/sessions"): Sample(),
    ("DELETE", "/v1/sessions"): Sample(alone=True),
    ("DELETE", "/v1/sessions/{session}"): Sample(sign_in, own=("session",), alone=True),
    ("GET", "/v1/me"): Sample(),
    ("PATCH", "/v1/me"): Sample(body=lambda _: {"name": f"Ada {secrets.token_hex(4)}"}),
    ("PUT", "/v1/me/password"): Sample(body=fixed({"current": PASSWORD, "new": f"new {PASSWORD}"}), alone=True),
    ("GET", "/v1/tenants"): Sample(),
    ("POST", "/v1/tenants"): Sample(body=lambda _: {"slug": slug(), "name": "Further"}, events=2),
    ("GET", "/v1/tenants/{tenant}"): Sample(),
    ("PATCH", "/v1/tenants/{tenant}"): Sample(body=lambda _: {"name": f"Acme {secrets.token_hex(4)}"}),
    ("DELETE", "/v1/tenants/{tenant}"): Sample(body=lambda made: {"confirm": made["tenant"]}, alone=True),
    ("GET", "/v1/tenants/{tenant}/snippets"): Sample(),
    ("GET", "/v1/tenants/{tenant}/members"): Sample(),
    ("PATCH", "/v1/tenants/{tenant}/members/{user}"): Sample(member, fixed({"role": "auditor"}), own=("user",)),
    ("DELETE", "/v1/tenants/{tenant}/members/{user}"): Sample(member, own=("user",)),
    ("GET", "/v1/tenants/{tenant}/invitations"): Sample(),
    ("POST", "/v1/tenants/{tenant}/invitations"): Sample(body=lambda _: {"email": email(), "role": "auditor"}),
    ("DELETE", "/v1/tenants/{tenant}/invitations/{invitation}"): Sample(invitation, own=("invitation",)),
    ("POST", "/v1/operator/users/disable"): Sample(stranger, lambda made: {"email": made["email"]}),
    ("POST", "/v1/operator/users/enable"): Sample(locked_out, lambda made: {"email": made["email"]}),
    ("POST", "/v1/operator/users/reset"): Sample(stranger, lambda made: {"email": made["email"]}),
    ("POST", "/v1/password-resets/accept"): Sample(
        reset, lambda made: {"secret": made["secret"], "password": "another " + PASSWORD}
    ),
    ("POST", "/v1/invitations/accept"): Sample(
        invitation, lambda made: {"secret": made["secret"], "name": "Bob", "password": PASSWORD}
    ),
    ("GET", "/v1/tenants/{tenant}/keys"): Sample(),
    ("POST", "/v1/tenants/{tenant}/keys"): Sample(body=fixed({"name": "ci", "expires_in": "1d"})),
    ("GET", "/v1/tenants/{tenant}/keys/{key_id}"): Sample(key, own=("key_id",)),
    ("PATCH", "/v1/tenants/{tenant}/keys/{key_id}"): Sample(
        key, fixed({"name": "renamed"}), own=("key_id",), refused=NOT_THEIRS
    ),
    ("DELETE", "/v1/tenants/{tenant}/keys/{key_id}"): Sample(key, own=("key_id",), refused=NOT_THEIRS),
    ("POST", "/v1/tenants/{tenant}/keys/{key_id}/rotate"): Sample(
        key, fixed({"overlap": "1h", "expires_in": "1d"}), own=("key_id",), refused=NOT_THEIRS
    ),
    ("GET", "/v1/tenants/{tenant}/limits"): Sample(),
    ("PUT", "/v1/tenants/{tenant}/limits"): Sample(
        body=lambda _: {"limits": {"rate": 100 + secrets.randbelow(10_000)}}
    ),
    ("GET", "/v1/tenants/{tenant}/usage"): Sample(query="?by=day,tool"),
    ("GET", "/v1/tenants/{tenant}/audit"): Sample(query="?limit=5&action=key.*"),
    ("GET", "/v1/tenants/{tenant}/audit/head"): Sample(),
    ("GET", "/v1/tenants/{tenant}/audit/tail"): Sample(stream=True),
    ("GET", "/v1/tenants/{tenant}/audit/export"): Sample(query="?format=csv"),
    ("GET", "/v1/tenants/{tenant}/audit/{entry}"): Sample(entry, own=("entry",)),
    ("GET", "/v1/toolsets"): Sample(),
    ("GET", "/v1/tenants/{tenant}/toolsets"): Sample(),
    ("PUT", "/v1/tenants/{tenant}/toolsets/{name}"): Sample(toolset_off),
    ("DELETE", "/v1/tenants/{tenant}/toolsets/{name}"): Sample(toolset_on),
    ("GET", "/v1/tenants/{tenant}/toolsets/{name}/config"): Sample(toolset_on),
    ("PUT", "/v1/tenants/{tenant}/toolsets/{name}/config"): Sample(toolset_on, fixed({"config": {"region": "no"}})),
    ("DELETE", "/v1/tenants/{tenant}/toolsets/{name}/config"): Sample(toolset_on),
    ("POST", "/v1/operator/sessions"): Sample(
        body=lambda made: {"email": made["operator"], "password": PASSWORD}, make=account
    ),
    ("GET", "/v1/operator/sessions/current"): Sample(),
    ("DELETE", "/v1/operator/sessions/current"): Sample(alone=True),
    ("GET", "/v1/operator/tenants"): Sample(query="?limit=1"),
    ("POST", "/v1/operator/tenants"): Sample(body=lambda _: {"slug": slug(), "name": "Theirs"}),
    ("GET", "/v1/operator/tenants/{tenant}"): Sample(tenant_of_nobody),
    ("PATCH", "/v1/operator/tenants/{tenant}"): Sample(
        tenant_of_nobody, fixed({"name": "Renamed", "limits": {"rate": 5}})
    ),
    ("DELETE", "/v1/operator/tenants/{tenant}"): Sample(tenant_of_nobody, lambda made: {"confirm": made["tenant"]}),
    ("POST", "/v1/operator/tenants/{tenant}/suspend"): Sample(tenant_of_nobody, fixed({"reason": "unpaid"})),
    ("POST", "/v1/operator/tenants/{tenant}/resume"): Sample(suspended, fixed({})),
    ("GET", "/v1/operator/tenants/{tenant}/audit"): Sample(tenant_of_nobody),
    ("GET", "/v1/operator/tenants/{tenant}/audit/export"): Sample(tenant_of_nobody, query="?format=jsonl"),
    ("GET", "/v1/operator/tenants/{tenant}/usage"): Sample(tenant_of_nobody),
    ("GET", "/v1/operator/audit"): Sample(),
    ("GET", "/v1/operator/signup-codes"): Sample(),
    ("POST", "/v1/operator/signup-codes"): Sample(body=fixed({})),
    ("DELETE", "/v1/operator/signup-codes/{code}"): Sample(code),
    ("GET", "/v1/operator/signing-keys"): Sample(),
    ("POST", "/v1/operator/signing-keys/rotate"): Sample(body=fixed({"ahead": "4w"})),
    ("POST", "/v1/operator/signing-keys/{kid}/retire"): Sample(signing_key, fixed({})),
    ("GET", "/v1/operator/metrics"): Sample(),
}
