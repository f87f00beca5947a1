"""What tenants and keys have used of their monthly quotas, as the accept script counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trunkline.streams.audit import AuditEntry
from trunkline.streams.client import Redis

MOST_EVENTS = 2_000
"""Events of a lane on their way beyond which nothing is seeded: they are read in one piece."""
_LIFETIME_MS = 40 * 24 * 3600 * 1000


class Used(NamedTuple):
    """Used in a month, calls under way aside."""

    calls: int = 0
    compute_us: int = 0


class QuotaUse:
    """The counts of all tenants; a month is named `2026-11`, in UTC."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(
        self, tenant: str, month: str, nonce: str, *, of_tenant: bool = True
    ) -> Sequence[AuditEntry] | bool:
        """Begin to tell what a tenant has used; where it has no quotas itself, only of its keys (`of_tenant` False).

        Returns:
            The lane's events that are not in Postgres, or were not a moment ago; True where all is known, False where
            there are too many of them.
        """
        lane = self._redis.keys.tenant(tenant).number
        found = await self._redis.script("seed", self._keys(tenant, month), _arguments(nonce, of_tenant))
        if isinstance(found, int):
            return bool(found)
        return [AuditEntry(lane, b"", fields[1].split(b"\n")) for fields in found]

    async def finish(
        self, tenant: str, month: str, nonce: str, used: Mapping[str, Used], *, of_tenant: bool = True
    ) -> bool:
        """Add what was used before `begin`, by key, all of the tenant under the empty name; False: it was in vain."""
        counts: list[str | int] = []
        for key, each in ({"": Used()} | dict(used)).items():
            suffix = f":{key}" if key else ""
            counts += [f"calls{suffix}", each.calls, f"us{suffix}", each.compute_us]
        args = _arguments(nonce, of_tenant) + counts
        return bool(await self._redis.script("seed", self._keys(tenant, month), args))

    async def forget(self, tenant: str, month: str) -> None:
        """What a tenant has used is to be told anew: its quotas have changed, and not all its calls were metered."""
        await self._redis.command("DEL", self._keys(tenant, month)[0])

    async def read(self, tenant: str, month: str) -> Used | None:
        """What the tenant has used; None where that is not known here."""
        use = self._keys(tenant, month)[0]
        seeded, calls, compute = await self._redis.command("HMGET", use, "seeded:tenant", "calls", "us")
        return None if seeded is None else Used(int(calls or 0), int(compute or 0))

    def _keys(self, tenant: str, month: str) -> list[str]:
        keys = self._redis.keys
        lane = keys.tenant(tenant).number
        return [keys.quota(tenant, month), keys.audit(lane), keys.unwritten(lane)]


def _arguments(nonce: str, of_tenant: bool) -> list[str | int]:
    return [nonce, MOST_EVENTS, _LIFETIME_MS, "seeded:tenant" if of_tenant else "seeded"]
