"""Copies of a tenant's log, as streams: whatever its size, a batch of rows is in memory at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Final, Literal

import orjson
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.by import By
from trunkline.audit.chain import Checkpoint, Entry, genesis
from trunkline.audit.entries import COLUMNS, checkpoint_json, csv_header, csv_lines, from_row, json_line
from trunkline.audit.query import in_order, read_checkpoints
from trunkline.audit.record import Recorder
from trunkline.audit.signing import CheckpointSigner
from trunkline.db import Database, tenant_scope
from trunkline.errors import Forbidden, TooManyRequests, Unavailable

Format = Literal["jsonl", "csv"]
MOST_EXPORTS: Final = 4
"""At once from one process, one of each tenant: each holds a connection to Postgres while its reader takes it."""
LONGEST: Final = 15 * 60.0
"""Seconds that one takes at most: as long, Postgres keeps what nobody else needs, and no partition can be dropped."""
IDLE: Final = 120.0
"""Seconds after which Postgres ends one whose reader has stopped."""
_LOOK_EVERY: Final = 1.0
"""Seconds between looks whether whoever takes it still may."""
_SHARE: Final = 100
"""Rows that are made into entries without letting others run: a millisecond."""
_END_IDLE: Final = text("SELECT set_config('idle_in_transaction_session_timeout', CAST(:ms AS text), true)")
TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
"""Media types."""


class Taking:
    """The place of a copy among those that are taken; it frees itself at last when nobody has it any more."""

    def __init__(self, tenant_id: str, taken: set[str], may: Callable[[], Awaitable[bool]] | None) -> None:
        self._tenant_id = tenant_id
        self._taken = taken
        self._may = may
        self._looked = time.monotonic()

    async def check(self) -> None:
        """Look again whether whoever takes it may, when a second has passed.

        Raises:
            Forbidden: not any more.
        """
        if self._may is None or time.monotonic() - self._looked < _LOOK_EVERY:
            return
        if not await self._may():
            raise Forbidden("Whoever took this copy may not read the log any more.")
        self._looked = time.monotonic()

    def release(self) -> None:
        """Make room for the next one."""
        if self._tenant_id:
            self._taken.discard(self._tenant_id)
            self._tenant_id = ""

    __del__ = release


class Export:
    """Takes copies of logs, and signs at their end what they hold.

    The signature says that this deployment gave the copy out, as `trunkline audit verify --file` checks; whether the
    log was intact then is what `trunkline audit verify` tells.
    """

    def __init__(self, database: Database, root: SecretStr, batch: int = 1_000) -> None:
        self._database = database
        self._root = root
        self._recorder = Recorder(root)
        self._batch = batch
        self._taken: set[str] = set()

    async def begin(
        self,
        tenant_id: str,
        by: By,
        said: Mapping[str, object],
        may: Callable[[], Awaitable[bool]] | None = None,
    ) -> Taking:
        """Record that somebody takes a copy, and of what; it is in the copy too.

        Args:
            tenant_id: Of whose log.
            by: Who.
            said: What of it.
            may: Whether whoever takes it still may; asked each second.

        Raises:
            TooManyRequests: one of this log, or `MOST_EXPORTS` are being taken from this process.
            Unavailable: Postgres is away.
        """
        if tenant_id in self._taken:
            raise TooManyRequests("An export of this log is running here; wait until it has ended.", retry_after=10)
        if len(self._taken) >= MOST_EXPORTS:
            raise TooManyRequests("Other exports are running here; try again in a moment.", retry_after=10)
        self._taken.add(tenant_id)
        taking = Taking(tenant_id, self._taken, may)
        try:
            async with self._database.transaction(tenant_scope(tenant_id)) as session:
                await self._recorder.record(session, tenant_id, "audit.export", by=by, detail=said)
        except BaseException:
            taking.release()
            raise
        return taking

    async def entries(
        self,
        tenant_id: str,
        since: datetime | None = None,
        until: datetime | None = None,
        taking: Taking | None = None,
    ) -> AsyncIterator[list[Entry]]:
        """The entries that were recorded from `since` and before `until`, oldest first, as they are at one moment.

        Close it (`contextlib.aclosing`) where it may not be read to its end: it holds a connection.

        Raises:
            Unavailable: Postgres is away, at any batch; or it has taken too long.
            Forbidden: whoever takes it may not any more.
        """
        # Times of recording grow with the numbers, so a part has no gaps.
        query = f"SELECT {COLUMNS} FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid)"  # noqa: S608
        values: dict[str, object] = {"tenant": tenant_id}
        if since is not None:
            query, values["since"] = f"{query} AND recorded_at >= :since", since
        if until is not None:
            query, values["until"] = f"{query} AND recorded_at < :until", until
        ends = time.monotonic() + LONGEST
        async with self._database.transaction(tenant_scope(tenant_id), isolation_level="REPEATABLE READ") as session:
            await session.execute(_END_IDLE, {"ms": str(round(IDLE * 1000))})
            await in_order(session)
            options = {"yield_per": self._batch}
            found = await session.stream(text(f"{query} ORDER BY seq"), values, execution_options=options)
            async for rows in found.partitions(self._batch):
                for start in range(0, len(rows), _SHARE):
                    if time.monotonic() > ends:
                        raise Unavailable("An export takes 15 minutes at most; take the log in parts, by time.")
                    if taking is not None:
                        await taking.check()
                    yield [from_row(row) for row in rows[start : start + _SHARE]]
                    await asyncio.sleep(0)

    async def csv(
        self,
        tenant_id: str,
        since: datetime | None = None,
        until: datetime | None = None,
        taking: Taking | None = None,
    ) -> AsyncIterator[bytes]:
        """The entries as CSV with a heading."""
        yield csv_header()
        async with aclosing(self.entries(tenant_id, since, until, taking)) as batches:  # type: ignore[type-var]
            async for entries in batches:
                yield csv_lines(entries)

    async def jsonl(
        self,
        tenant_id: str,
        since: datetime | None = None,
        until: datetime | None = None,
        taking: Taking | None = None,
    ) -> AsyncIterator[bytes]:
        """The entries as JSON Lines, and a last line with what it takes to verify them."""
        first: Entry | None = None
        last: Entry | None = None
        async with aclosing(self.entries(tenant_id, since, until, taking)) as batches:  # type: ignore[type-var]
            async for entries in batches:
                first, last = first or entries[0], entries[-1]
                yield b"".join(map(json_line, entries))
        yield await self._end(tenant_id, first, last)

    async def _end(self, tenant_id: str, first: Entry | None, last: Entry | None) -> bytes:
        if first is None or last is None:
            said: dict[str, object] = {"tenant": tenant_id, "checkpoint": None, "previous": None, "signed": None}
            return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)
        taken = Checkpoint(tenant_id, last.seq, last.hash, last.recorded_us, "export")
        end = CheckpointSigner(self._root).sign(taken)

        async def read(session: AsyncSession) -> tuple[bytes, list[Checkpoint]]:
            return await _hash_before(session, first), await read_checkpoints(session, tenant_id)

        previous, checkpoints = await self._database.look(read, scope=tenant_scope(tenant_id))
        signed = [each for each in checkpoints if each.kind == "regular" and first.seq <= each.seq <= last.seq]
        said = {
            "tenant": tenant_id,
            "checkpoint": checkpoint_json(end),
            "previous": previous.hex(),
            "signed": checkpoint_json(signed[0]) if signed else None,
        }
        return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


async def _hash_before(session: AsyncSession, entry: Entry) -> bytes:
    """What an entry is chained to; what is not there any more was signed when it was dropped."""
    tenant, seq = entry.event.tenant, entry.seq - 1
    if not seq:
        return genesis(tenant)
    query = text(
        "SELECT hash FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) AND seq = :seq "
        "UNION ALL SELECT hash FROM audit_checkpoints WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) "
        "AND seq = :seq LIMIT 1"
    )
    found: bytes | None = await session.scalar(query, {"tenant": tenant, "seq": seq})
    return found or b""
