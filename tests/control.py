"""The control plane as its clients have it: a deployment with one API pod, people, keys, and clients of its `/v1`."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
from tests.journey.conftest import Platform, platform_on
from tests.stores import TestStores

from trunkline.audit.by import CLI
from trunkline.audit.record import Recorder
from trunkline.db import Database
from trunkline.settings import Settings, load_settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.key_options import Wanted
from trunkline.tenants.model import ALL_TOOLS, SCOPES
from trunkline.tenants.operators import Operators
from trunkline.tenants.passwords import Passwords
from trunkline.tenants.roles import ROLES, Role
from trunkline.tenants.tenants import DIRECTORY, read
from trunkline.tenants.users import Users

PASSWORD = "correct horse battery staple"
FREE = {"sign_in_rate": 100_000.0, "account_rate": 100_000.0, "signup_rate": 100_000.0, "control_rate": 100_000.0}
"""Settings with which no throttle is met; all tests come from one address."""


@dataclass
class Person:
    """Somebody with an account, and a token."""

    id: str
    email: str
    token: str


@dataclass
class Place:
    """A tenant with a member of each role, a key of each scope, and one key of no use any more of each kind."""

    slug: str
    id: str
    people: dict[Role, Person]
    keys: dict[str, str] = field(default_factory=dict)
    """By scope, the secret of a key that has it alone."""
    key_ids: dict[str, str] = field(default_factory=dict)
    first_key: str = ""
    revoked_key: str = ""
    expired_key: str = ""

    @property
    def owner(self) -> Person:
        return self.people["owner"]


@dataclass
class ControlRig:
    """A deployment, and where its control plane is."""

    platform: Platform
    url: str

    @property
    def settings(self) -> Settings:
        return self.platform.settings

    @contextlib.asynccontextmanager
    async def client(self, credential: str = "", **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
        """A client of `/v1` with a key or token, or with neither."""
        if credential:
            headers["authorization"] = f"Bearer {credential}"
        # Plain HTTP: without `verify`, each client would read the certificates of the whole world.
        async with httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=15, verify=False) as http:
            yield http

    async def call(
        self, method: str, path: str, credential: str = "", json: object = None, **headers: str
    ) -> httpx2.Response:
        """One request, on a connection of its own."""
        async with self.client(credential, **headers) as http:
            return await http.request(method, path, json=json)

    async def sign_up(self, slug: str = "", email: str = "") -> tuple[dict, Person]:
        """Somebody new with a tenant of their own: what signing up answered, and they."""
        slug = slug or f"t-{secrets.token_hex(4)}"
        email = email or f"{slug}@example.com"
        body = {"slug": slug, "email": email, "password": PASSWORD, "name": slug.capitalize()}
        answer = await self.call("POST", "/v1/signup", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json(), Person(answer.json()["user"]["id"], email, await self.token(email))

    async def token(self, email: str, password: str = PASSWORD) -> str:
        answer = await self.call("POST", "/v1/tokens", json={"email": email, "password": password})
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]

    async def join(self, slug: str, by: Person, role: Role, email: str = "") -> Person:
        """Somebody new, invited to a tenant and come."""
        email = email or f"{role}-{secrets.token_hex(4)}@example.com"
        invited = await self.call("POST", f"/v1/tenants/{slug}/invitations", by.token, {"email": email, "role": role})
        assert invited.status_code == 201, invited.text
        secret = invited.json()["link"].partition("#")[2]
        body = {"secret": secret, "name": role, "password": PASSWORD}
        accepted = await self.call("POST", "/v1/invitations/accept", json=body)
        assert accepted.status_code == 201, accepted.text
        return Person(accepted.json()["user"]["id"], email, await self.token(email))

    async def place(self, slug: str) -> Place:
        """A tenant with everything in it."""
        made, owner = await self.sign_up(slug)
        people: dict[Role, Person] = {"owner": owner}
        for role in ROLES:
            if role != "owner":
                people[role] = await self.join(slug, owner, role)
        place = Place(slug, made["tenant"]["id"], people, first_key=made["key"]["secret"])
        place.key_ids["first"] = made["key"]["key"]["id"]
        keys = self.platform.keys
        for scope in sorted(SCOPES):
            place.keys[scope], record = await keys.issue(slug, name=scope, scopes=[scope])
            place.key_ids[scope] = record.id
        place.revoked_key, revoked = await keys.issue(slug, name="revoked", scopes=sorted(SCOPES))
        await keys.revoke(revoked.id)
        place.expired_key = await self._expired_key(slug)
        return place

    async def _expired_key(self, slug: str) -> str:
        database = Database(self.settings.database_url, process="test")
        async with database.transaction(DIRECTORY) as session:
            tenant = await read(session, slug)
            wanted = Wanted("expired", tuple(sorted(SCOPES)), ALL_TOOLS, timedelta(seconds=-5))
            secret, _, _ = await self.platform.keys.issue_in(session, tenant, wanted, CLI)
        await database.aclose()
        return secret

    async def reset(self, email: str) -> str:
        """The secret of a password reset, as the command line gives it out."""
        secret, _ = await self.user("reset", email)
        return secret

    async def user(self, command: str, email: str) -> Any:
        """What the command line does with an account: `disable`, `enable`, `reset`."""
        database = Database(self.settings.database_url, process="test")
        settings, throttle = self.settings, RedisThrottle(self.platform.redis)
        users = Users(settings, database, throttle, Passwords(fast=True), Recorder(settings.secret_key))
        done = await getattr(users, command)(email)
        await database.aclose()
        return done

    @contextlib.asynccontextmanager
    async def operators(self) -> AsyncIterator[Operators]:
        """What the command line does with operators."""
        database = Database(self.settings.database_url, process="test")
        settings, throttle = self.settings, RedisThrottle(self.platform.redis)
        yield Operators(settings, database, throttle, Passwords(fast=True), Recorder(settings.secret_key))
        await database.aclose()

    async def operator(self, email: str = "") -> Person:
        """An operator, with a token."""
        email = email or f"operator-{secrets.token_hex(4)}@example.com"
        async with self.operators() as operators:
            made = await operators.create(email, "Operator", PASSWORD)
        body = {"email": email, "password": PASSWORD, "token": True}
        answer = await self.call("POST", "/v1/operator/sessions", json=body)
        assert answer.status_code == 201, answer.text
        return Person(made.id, email, answer.json()["token"])


@dataclass
class World:
    """Two tenants with everything in them, an operator, and a user who belongs nowhere."""

    rig: ControlRig
    acme: Place
    other: Place
    operator: Person
    nobody: Person


@contextlib.contextmanager
def settings_on(stores: TestStores, **changes: object) -> AsyncIterator[Settings]:
    """Settings of a deployment of one's own, for as long as a module's tests take."""
    with stores.fresh_database() as database_url:
        yield load_settings(
            environment="dev",
            database_url=database_url,
            redis_url=stores.redis_url,
            redis_prefix=f"test-{secrets.token_hex(6)}:",
            secret_key=secrets.token_hex(32),
            public_url="http://127.0.0.1:8000",
            drain_delay=0,
            lanes=4,
            **changes,
        )


@contextlib.asynccontextmanager
async def control_on(settings: Settings, **changes: object) -> AsyncIterator[ControlRig]:
    """A deployment with the tenant `demo` and one API pod, whose passwords cost next to nothing."""
    settings = settings.model_copy(update={"signup": "open", **FREE, **changes})
    async with platform_on(settings) as platform:
        yield ControlRig(platform, await platform.api())


async def world_on(rig: ControlRig) -> World:
    """Everything that there can be, twice."""
    acme, other = await rig.place("acme"), await rig.place("other")
    nobody = await rig.join("acme", acme.owner, "auditor", "nobody@example.com")
    left = await rig.call("DELETE", f"/v1/tenants/acme/members/{nobody.id}", acme.owner.token)
    assert left.status_code == 204, left.text
    return World(rig, acme, other, await rig.operator(), nobody)
