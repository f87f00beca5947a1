"""When a key was last used: noted by pods in memory, and written beside the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy import text

from trunkline.db import Database, task_scope
from trunkline.errors import Unavailable

WRITE_EVERY = 15.0
"""Seconds between two writes: so much may the column be behind."""
MOST_NOTED = 50_000
"""Keys that are kept while Postgres is away; it is a courtesy, and no more than that."""
_AT_ONCE = 5_000
"""Keys in one statement."""

# Who finds a row locked leaves it: another pod writes the same key, at nearly the same time.
_WRITE = text(
    "WITH used AS (SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:times AS float8[])) AS u(id, at)), "
    "there AS (SELECT id FROM api_keys WHERE id = ANY (CAST(:ids AS text[])) FOR NO KEY UPDATE SKIP LOCKED) "
    "UPDATE api_keys AS k SET last_used_at = to_timestamp(used.at) FROM used JOIN there ON there.id = used.id "
    "WHERE k.id = used.id AND (k.last_used_at IS NULL OR k.last_used_at < to_timestamp(used.at))"
)


class LastUse:
    """Notes keys that are used. Each pod writes what it saw; the later of two times stays."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[str, float] = {}

    def note(self, key_id: str) -> None:
        """Note that a key is used now."""
        self._noted[key_id] = self._clock()

    async def run(self) -> None:
        """Write what was noted, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY)
            await self.write()

    async def write(self) -> None:
        """Write what was noted; what cannot be written now is kept, the newest of it."""
        noted, self._noted = self._noted, {}
        items = list(noted.items())
        while items:
            part, items = items[:_AT_ONCE], items[_AT_ONCE:]
            try:
                await self._write(part)
            except Unavailable:
                self._keep([*part, *items])
                return

    async def _write(self, part: list[tuple[str, float]]) -> None:
        values = {"ids": [key for key, _ in part], "times": [at for _, at in part]}
        async with self._database.transaction(task_scope("verify")) as session:
            await session.execute(_WRITE, values)

    def _keep(self, items: list[tuple[str, float]]) -> None:
        newest = sorted(items, key=lambda item: item[1])[-MOST_NOTED:]
        self._noted = dict(newest) | self._noted
