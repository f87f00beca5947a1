"""Failed sign-ins in the audit log: as many as are tried, and few events."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Literal

from trunkline.audit.by import PLATFORM, By
from trunkline.audit.record import Recorder
from trunkline.db import Database, task_scope
from trunkline.errors import Unavailable
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.addresses import site_of

Door = Literal["sign-in", "sign-up", "invitation", "password", "operator"]
"""Where somebody gave a wrong password."""

EVERY: Final = 60.0
"""Seconds between two events of one account; of one address, where there is no such account."""


class Failures:
    """Notes wrong passwords: the first at once, those that follow within a minute with the next."""

    def __init__(self, database: Database, throttle: RedisThrottle, recorder: Recorder) -> None:
        self._database = database
        self._throttle = throttle
        self._recorder = recorder

    async def note(self, door: Door, target: str, by: By) -> None:
        """A wrong password of `target`, an account's id; empty where there is no such account.

        The event says in `failures` how many there were since the one before it, this one included.

        Raises:
            Unavailable: Postgres is away.
        """
        count = 1
        with suppress(Unavailable):
            count = await self._throttle.tally("failures", target or f"address {site_of(by.address)}", EVERY)
        if not count:
            return
        detail = {"door": door, "failures": count}
        async with self._database.transaction(task_scope("account")) as session:
            await self._recorder.record(
                session, PLATFORM, "session.fail", by=by, target=target, outcome="error", detail=detail
            )
