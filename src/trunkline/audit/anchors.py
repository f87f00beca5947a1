"""Heads of chains outside of Postgres, in Redis: an old one that is put back in Postgres is betrayed by them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

from trunkline.audit.chain import Head
from trunkline.audit.signing import HeadSealer
from trunkline.errors import Unavailable
from trunkline.streams.audit_tail import log_grew
from trunkline.streams.client import Redis
from trunkline.streams.snapshots import Snapshots

_KIND: Final = "audit-head"


class Anchors:
    """Keeps the newest head of each chain, with its code; none replaces one that had come further."""

    def __init__(self, redis: Redis, sealer: HeadSealer) -> None:
        self._redis = redis
        self._snapshots = Snapshots(redis)
        self._sealer = sealer

    async def grew(self, heads: Mapping[str, Head]) -> None:
        """These chains have grown, by tenant: keep their heads, and tell whoever follows the logs.

        Where Redis is away that is left out: what matters is in Postgres, and each hour they are kept anew.
        """
        with contextlib.suppress(Unavailable):
            await asyncio.gather(log_grew(self._redis, heads), *(self.keep(head) for head in heads.values()))

    async def keep(self, head: Head) -> None:
        """Keep a head, unless one that had come further is there.

        Raises:
            Unavailable: Redis is away.
        """
        await self._snapshots.put(_KIND, head.tenant, head.seq, self._sealer.pack(head))

    async def get(self, tenant: str) -> Head | None:
        """The head that is kept of a tenant's chain; None where there is none that we have written.

        Raises:
            Unavailable: Redis is away.
        """
        packed = await self._snapshots.get(_KIND, tenant)
        return None if packed is None else self._sealer.unpack(packed)
