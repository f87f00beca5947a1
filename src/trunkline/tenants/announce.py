"""After the commit: what every pod must hear, and what a pod finds in Redis when Postgres is away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trunkline.errors import Unavailable
from trunkline.streams.changes import LISTS, Changes
from trunkline.streams.client import Redis
from trunkline.streams.control import KeyRevoked, SigningKeysChanged, TenantChanged, announce
from trunkline.streams.revocations import Revocations
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants.snapshot import TOMBSTONE, version_of

TENANT = "tenant"
"""Kind of the snapshots of tenants, named by slug."""
SIGNING_KEYS = "signing-keys"
"""Kind of the one snapshot, named `all`, of the public signing keys."""
CONFIG = "config"
"""Kind of the snapshots of toolsets' configurations, named `<tenant id>:<toolset>`; their secrets are sealed."""


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key that is refused from `at` on and would have expired at `expires_at`, both epoch seconds."""

    id: str
    at: float
    expires_at: float


class Announcer:
    """Tells Redis and all pods what Postgres has committed. Repeating any of it is harmless.

    Raises, from every method:
        Unavailable: Redis is away; the sentence says what is stored all the same, and when pods will learn it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._snapshots = Snapshots(redis)
        self._revocations = Revocations(redis)
        self._changes = Changes(redis)

    async def check(self) -> None:
        """Ask Redis for a sign of life, for a change that should rather not begin without."""
        await self._redis.command("PING")

    async def tenant_copy(self, slug: str) -> bytes | None:
        """The tenant's snapshot, if there is one, and the tenant was not deleted."""
        found = await self._snapshots.get(TENANT, slug)
        return None if found == TOMBSTONE else found

    async def tenant_changed(self, slug: str, tenant_id: str, version: int, snapshot: bytes) -> None:
        """Replace the tenant's snapshot, then make every pod look."""
        with _stored(f"The change of tenant {slug}", "within 5 minutes after Redis is back"):
            await self._snapshots.put(TENANT, slug, version, snapshot)
            await announce(self._redis, TenantChanged(slug, tenant_id))

    async def lists_changed(self, slug: str, tenant_id: str) -> None:
        """Tell the tenant's clients that what it offers has changed; only after `tenant_changed`."""
        with _stored(f"The change of tenant {slug}", "with their next listing"):
            await self._changes.announce(tenant_id, LISTS)

    async def tenant_gone(self, slug: str, tenant_id: str) -> None:
        """Replace the snapshot of a tenant that Postgres does not have any more, if there is one."""
        with _stored(f"The deletion of tenant {slug}", "within 5 minutes after Redis is back"):
            left = await self._snapshots.get(TENANT, slug)
            if left is not None and left != TOMBSTONE:
                await self._snapshots.put(TENANT, slug, version_of(left) + 1, TOMBSTONE)
            await announce(self._redis, TenantChanged(slug, tenant_id))

    async def keys_revoked(self, keys: Iterable[RevokedKey]) -> None:
        """Put the revocations where every pod finds them, then tell all pods."""
        with _stored("The revocation", "when they next read the database, within a minute"):
            for key in keys:
                await self._revocations.add(key.id, key.at, key.expires_at)
                await announce(self._redis, KeyRevoked(key.id, key.at))

    async def signing_keys_changed(self, version: int, snapshot: bytes) -> None:
        """Publish the public keys, then make every pod look."""
        with _stored("The new signing key", "at the first call with a key that it signed"):
            await self._snapshots.put(SIGNING_KEYS, "all", version, snapshot)
            await announce(self._redis, SigningKeysChanged())

    async def configured(self, tenant_id: str, toolset: str, version: int, config: bytes) -> None:
        """Put a toolset's configuration where workers find it; `tenant_changed` then has them look."""
        with _stored(f"The configuration of toolset {toolset}", "within 5 minutes after Redis is back"):
            await self._snapshots.put(CONFIG, f"{tenant_id}:{toolset}", version, config)


@contextmanager
def _stored(what: str, when: str) -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        raise Unavailable(
            f"{what} is stored, but Redis is away: running pods learn of it {when}. Run this again then to tell "
            "them at once."
        ) from error
