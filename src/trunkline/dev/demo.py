"""The demo tenant: there after every start, with its toolsets on and a key that works at this address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from trunkline.db import Database, utcnow
from trunkline.errors import TenantNotFound, Unauthorized
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.revocations import Revocations
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants.keys import Keys
from trunkline.tenants.model import Tenant
from trunkline.tenants.signing import Keyring
from trunkline.tenants.tenants import Tenants
from trunkline.tenants.verify import Verifier

KEY_NAME = "trunkline dev"
BUILTIN = "demo"
_SHORTEST_REST = 86_400.0
"""Seconds: a key that expires sooner is replaced at the start rather than in the middle of work."""


def prepare_tenant(settings: Settings, slug: str, servers: Iterable[str], known_key: str) -> str:
    """Make the tenant if need be and give a key of it: the known one if it still verifies, else a new one.

    The toolsets in `servers` are switched on; before the builtin one where that never was, for the toolset that comes
    first keeps the names of its tools. What somebody switched off otherwise stays off.

    Raises:
        Unavailable: a store is away.
        StartRefused: the secret key is not the one that this database was used with.
    """
    return asyncio.run(_prepare(settings, slug, servers, known_key))


async def _prepare(settings: Settings, slug: str, servers: Iterable[str], known_key: str) -> str:
    database = Database(settings.database_url, process="trunkline dev")
    redis = await Redis.connect(settings, "dev")
    try:
        tenant = await _switched_on(Tenants(settings, database, redis), slug, servers)
        keyring = Keyring(Snapshots(redis), database)
        verifier = Verifier(settings, keyring, Revocations(redis), database)
        if known_key and await _works(verifier, known_key, tenant):
            return known_key
        return await _new_key(Keys(settings, database, redis), slug)
    finally:
        await redis.aclose()
        await database.aclose()


async def _switched_on(tenants: Tenants, slug: str, servers: Iterable[str]) -> Tenant:
    try:
        tenant = await tenants.get(slug)
    except TenantNotFound:
        tenant = await tenants.create(slug, slug.capitalize())
    for name in servers:
        if name not in tenant.enabled_toolsets:
            tenant = await tenants.enable(slug, name)
    if all(switch.name != BUILTIN for switch in tenant.toolsets):
        tenant = await tenants.enable(slug, BUILTIN)
    return tenant


async def _works(verifier: Verifier, key: str, tenant: Tenant) -> bool:
    await verifier.refresh()
    try:
        principal = verifier.verify(key, tenant.slug)
    except Unauthorized:
        return False
    return principal.tenant_id == tenant.id and principal.expires_at - time.time() > _SHORTEST_REST


async def _new_key(keys: Keys, slug: str) -> str:
    """Issue a key, and revoke those of earlier starts: nobody has a use for them."""
    for record in await keys.list(slug):
        if record.name == KEY_NAME and record.revoked_at is None and record.expires_at > utcnow():
            await keys.revoke(record.id)
    token, _ = await keys.issue(slug, name=KEY_NAME)
    return token
