"""Copies of a tenant's log, as streams: whatever its size, a batch of rows is in memory at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Literal

import orjson
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.chain import Checkpoint, Entry, genesis
from trunkline.audit.entries import COLUMNS, checkpoint_json, csv_header, csv_lines, from_row, json_line
from trunkline.audit.query import read_checkpoints
from trunkline.audit.signing import CheckpointSigner
from trunkline.db import Database, tenant_scope

Format = Literal["jsonl", "csv"]
TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
"""Media types."""


class Export:
    """Takes copies of logs, and signs at their end what they hold.

    The signature says that this deployment gave the copy out, as `trunkline audit verify --file` checks; whether the
    log was intact then is what `trunkline audit verify` tells.
    """

    def __init__(self, database: Database, root: SecretStr, batch: int = 1_000) -> None:
        self._database = database
        self._signer = CheckpointSigner(root)
        self._batch = batch

    async def entries(
        self, tenant_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[list[Entry]]:
        """The entries that were recorded from `since` and before `until`, oldest first, as they are at one moment.

        Close it (`contextlib.aclosing`) where it may not be read to its end: it holds a connection.

        Raises:
            Unavailable: Postgres is away, at any batch.
        """
        wanted = (
            select(text(COLUMNS))
            .select_from(text("audit_events"))
            .where(text("tenant_id = CAST(CAST(:tenant AS text) AS uuid)").bindparams(tenant=tenant_id))
            .order_by(text("seq"))
        )
        # Times of recording grow with the numbers, so a part has no gaps.
        if since is not None:
            wanted = wanted.where(text("recorded_at >= :since").bindparams(since=since))
        if until is not None:
            wanted = wanted.where(text("recorded_at < :until").bindparams(until=until))
        stream = self._database.stream(tenant_scope(tenant_id), wanted, batch=self._batch)
        async with aclosing(stream) as batches:  # type: ignore[type-var]
            async for rows in batches:
                yield [from_row(row) for row in rows]

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
        end = self._signer.sign(Checkpoint(tenant_id, last.seq, last.hash, last.recorded_us, "export"))

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
