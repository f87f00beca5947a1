"""What a pod does about what it hears, or may have missed, whatever the stores do meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

from tests.unit.api.streams import SESSION, TENANT, Client

from trunkline.api.auth import Identity
from trunkline.api.connection import Protocol
from trunkline.api.connections import Connections
from trunkline.api.heard import Heard
from trunkline.api.stream import Stream
from trunkline.errors import Unavailable
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.control import ListsChanged
from trunkline.tenants.model import ALL_TOOLS, DEFAULT_SCOPES, Principal, Tenant, ToolsetSwitch, public_principal

TOOLSETS = (ToolsetSwitch("Parlour", enabled=True),)


class Directory:
    """Two tenants of three are known."""

    def __init__(self, *tenants: Tenant) -> None:
        self._tenants = {tenant.slug: tenant for tenant in tenants}
        self.asked: list[str] = []

    async def get(self, slug: str) -> Tenant:
        self.asked.append(slug)
        if slug not in self._tenants:
            raise Unavailable
        return self._tenants[slug]


class Changes:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def announce(self, tenant: str, _: object, *, change: str) -> None:
        self.told.append(tenant)


class Verifier:
    def __init__(self) -> None:
        self.until: dict[tuple[str, str], float] = {}

    def now(self) -> float:
        return 1000.0

    def good_until(self, key_id: str, kid: str) -> float:
        return self.until.get((key_id, kid), float("inf"))


def heard(
    connections: Connections, directory: Directory, changes: Changes | None = None, verifier: Verifier | None = None
) -> Heard:
    parts: Any = (None, changes, directory, verifier or Verifier(), None)
    return Heard(connections, *parts)


def opened(connections: Connections, *slugs: str) -> list[Stream]:
    settings = Settings(environment="dev")
    streams = []
    for number, slug in enumerate(slugs):
        tenant = replace(TENANT, slug=slug, id=f"{number:032}")
        identity = Identity.of(tenant, public_principal(tenant))
        name = f"{SESSION[:-1]}{number}"
        streams.append(Stream(identity, name, 0, cast("Protocol", Client()), settings, Metrics("api")))
        connections.add(streams[-1])
    return streams


async def rest(made: Heard) -> None:
    await asyncio.gather(*made._tasks)


async def test_streams_of_tenants_that_were_suspended_while_nobody_listened_end_once_it_is_seen() -> None:
    connections = Connections()
    unknown, suspended, active = opened(connections, "unknown", "suspended", "active")
    directory = Directory(
        replace(TENANT, slug="suspended", id=suspended.owner.tenant, status="suspended"),
        replace(TENANT, slug="active", id=active.owner.tenant),
    )
    made = heard(connections, directory)
    made.look_again()
    made.look_again()
    await rest(made)
    assert [stream.ended for stream in (unknown, suspended, active)] == ["", "tenant changed", ""]
    assert sorted(directory.asked) == ["active", "suspended", "unknown"], "once, however often it is asked for"


async def test_a_tenant_that_cannot_be_asked_for_keeps_no_other_from_being_told() -> None:
    connections, changes = Connections(), Changes()
    streams = opened(connections, "a", "b", "c")
    for missing in "abc":
        known = [
            replace(TENANT, slug=stream.slug, id=stream.owner.tenant, toolsets=TOOLSETS)
            for stream in streams
            if stream.slug != missing
        ]
        made = heard(connections, Directory(*known), changes)
        changes.told.clear()
        made.event(ListsChanged("", ["tools"], "Parlour", "x"))
        await rest(made)
        assert sorted(changes.told) == [tenant.id for tenant in known]


async def test_streams_end_whose_key_was_revoked_or_whose_signing_key_is_gone_and_the_rest_end_in_time() -> None:
    connections, verifier = Connections(), Verifier()
    streams = []
    for number, kid in enumerate(("k1", "k1", "k2", "k3")):
        principal = Principal(
            TENANT.id, "acme", f"key_{number}", frozenset(DEFAULT_SCOPES), ALL_TOOLS, 9000.0, kid=kid
        )
        name = f"{SESSION[:-1]}{number}"
        identity = Identity.of(TENANT, principal)
        settings = Settings(environment="dev")
        streams.append(Stream(identity, name, 0, cast("Protocol", Client()), settings, Metrics("api")))
        connections.add(streams[-1])
    verifier.until = {("key_0", "k1"): 999.0, ("key_2", "k2"): 0.0, ("key_3", "k3"): 1500.0}
    made = heard(connections, Directory(TENANT), verifier=verifier)
    made.look_again()
    await rest(made)
    assert [stream.ended for stream in streams] == ["key revoked", "", "key revoked", ""]
    assert [stream.expires_at for stream in streams] == [9000.0, 9000.0, 9000.0, 1500.0]
