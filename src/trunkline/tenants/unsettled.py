"""What was done while Postgres was away is written down when it is back."""

from __future__ import annotations

from contextlib import suppress

from trunkline.db import Database
from trunkline.errors import NotFound
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.emergencies import Emergencies
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants


class Unsettled:
    """Revocations and suspensions that are in force, and that Postgres does not know. Any pod may write them down."""

    def __init__(self, settings: Settings, database: Database, redis: Redis) -> None:
        self._emergencies = Emergencies(redis)
        self._keys = Keys(settings, database, redis)
        self._tenants = Tenants(settings, database, redis)

    async def settle(self) -> None:
        """Write them down; one by two pods at once is one event.

        Raises:
            Unavailable: one of the stores is away.
        """
        for emergency in await self._emergencies.all():
            with suppress(NotFound):  # it is gone since, and forgotten by this
                if emergency.what == "revoke":
                    await self._keys.settle(emergency)
                else:
                    await self._tenants.settle(emergency)
