"""Copies of a tenant's log, as streams: whatever its size, a batch of rows is in memory at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
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
from trunkline.errors import TooManyRequests

Format = Literal["jsonl", "csv"]
MOST_EXPORTS: Final = 2
"""At once from one process: each holds a connection to Postgres for as long as its reader takes."""
TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
"""Media types."""


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
        self._running = 0

    async def begin(self, tenant_id: str, by: By, said: Mapping[str, object]) -> None:
        """Record that somebody takes a copy, and of what; it is in the copy too.

        Raises:
            TooManyRequests: `MOST_EXPORTS` are being taken from this process.
            Unavailable: Postgres is away.
        """
        if self._running >= MOST_EXPORTS:
            raise TooManyRequests("Other exports are running here; try again in a moment.", retry_after=10)
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            await self._recorder.record(session, tenant_id, "audit.export", by=by, detail=said)

    async def entries(
        self, tenant_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[list[Entry]]:
        """The entries that were recorded from `since` and before `until`, oldest first, as they are at one moment.

        Close it (`contextlib.aclosing`) where it may not be read to its end: it holds a connection.

        Raises:
            Unavailable: Postgres is away, at any batch.
        """
        # Times of recording grow with the numbers, so a part has no gaps.
        query = f"SELECT {COLUMNS} FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid)"  # noqa: S608
        values: dict[str, object] = {"tenant": tenant_id}
        if since is not None:
            query, values["since"] = f"{query} AND recorded_at >= :since", since
        if until is not None:
            query, values["until"] = f"{query} AND recorded_at < :until", until
        self._running += 1
        try:
            async with self._database.transaction(
                tenant_scope(tenant_id), isolation_level="REPEATABLE READ"
            ) as session:
                await in_order(session)
                options = {"yield_per": self._batch}
                found = await session.stream(text(f"{query} ORDER BY seq"), values, execution_options=options)
                async for rows in found.partitions(self._batch):
                    yield [from_row(row) for row in rows]
        finally:
            self._running -= 1

    async def csv(
        self, tenant_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[bytes]:
        """The entries as CSV with a heading."""
        yield csv_header()
        async with aclosing(self.entries(tenant_id, since, until)) as batches:  # type: ignore[type-var]
            async for entries in batches:
                yield csv_lines(entries)

    async def jsonl(
        self, tenant_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[bytes]:
        """The entries as JSON Lines, and a last line with what it takes to verify them."""
        first: Entry | None = None
        last: Entry | None = None
        async with aclosing(self.entries(tenant_id, since, until)) as batches:  # type: ignore[type-var]
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
