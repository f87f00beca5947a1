"""Heads of chains outside of Postgres, in Redis: an old one that is put back in Postgres is betrayed by them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import structlog

from trunkline.audit.chain import Head
from trunkline.audit.heads import Grown
from trunkline.audit.signing import HeadSealer
from trunkline.errors import Unavailable
from trunkline.streams.audit_tail import log_grew
from trunkline.streams.client import Redis
from trunkline.streams.snapshots import Snapshots

log = structlog.get_logger("trunkline.audit")

_KIND: Final = "audit-head"


class Anchors:
    """Keeps the newest head of each chain, with its code; none replaces one that shows it to be of another chain."""

    def __init__(self, redis: Redis, sealer: HeadSealer) -> None:
        self._redis = redis
        self._snapshots = Snapshots(redis)
        self._sealer = sealer

    async def grew(self, grown: Sequence[Grown]) -> frozenset[str]:
        """These chains have grown: keep their heads, and tell whoever follows the logs.

        Where Redis is away that is left out: what matters is in Postgres, and each hour they are kept anew.

        Returns:
            The tenants whose chain had been at another entry than the one that it has grown from: an old head was put
            back, or the chain began anew. It is told until a head of theirs says that it is broken.
        """
        with contextlib.suppress(Unavailable):
            _, *kept = await asyncio.gather(
                log_grew(self._redis, [each.end.tenant for each in grown]), *(self._keep(each) for each in grown)
            )
            return frozenset(each.end.tenant for each, good in zip(grown, kept, strict=True) if not good)
        return frozenset()

    async def keep(self, head: Head) -> None:
        """Keep a head, unless one that had come further is there.

        Raises:
            Unavailable: Redis is away.
        """
        await self._keep(Grown(head, head))

    async def doubt(self, tenant: str) -> None:
        """Keep the head that is kept of a tenant's chain: it shows that the chain is another.

        Raises:
            Unavailable: Redis is away.
        """
        log.error("an audit chain is not the one that it was", tenant=tenant)
        await self._snapshots.doubt(_KIND, tenant)

    async def _keep(self, grown: Grown) -> bool:
        start, end = grown
        good = await self._snapshots.grow(
            _KIND,
            end.tenant,
            (end.seq, self._sealer.pack(end), end.hash.hex()),
            (start.seq, start.hash.hex()),
            broken=end.broken_at is not None,
        )
        if not good:
            log.error("an audit chain is not the one that it was", tenant=end.tenant, seq=end.seq)
        return good

    async def get(self, tenant: str) -> Head | None:
        """The head that is kept of a tenant's chain; None where there is none that we have written.

        Raises:
            Unavailable: Redis is away.
        """
        packed = await self._snapshots.get(_KIND, tenant)
        return None if packed is None else self._sealer.unpack(packed)
