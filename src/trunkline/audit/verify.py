"""Verifies the chain of a tenant: in Postgres, or in a copy that somebody took."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import orjson
from sqlalchemy import text

from trunkline.audit.chain import Entry, Head
from trunkline.audit.checking import ChainCheck, Report
from trunkline.audit.entries import COLUMNS, check_end, checkpoint_from_json, from_json, from_row
from trunkline.audit.query import in_order, read_checkpoints, read_head
from trunkline.audit.signing import HeadSealer, Signers
from trunkline.db import Database, tenant_scope
from trunkline.errors import UsageError

_BATCH: Final = 2_000
"""Rows in memory at once."""

_ROWS: Final = text(
    f"SELECT {COLUMNS} FROM audit_events WHERE tenant_id = CAST(CAST(:tenant AS text) AS uuid) ORDER BY seq"  # noqa: S608
)


async def verify(
    database: Database, tenant_id: str, sealer: HeadSealer, signers: Signers, anchor: Head | None = None
) -> Report:
    """Go over a tenant's whole chain as it is at one moment, in bounded memory; it may grow meanwhile.

    Args:
        database: where it is.
        tenant_id: whose chain.
        sealer: of the deployment's root.
        signers: whose signatures count.
        anchor: a head that was kept outside of Postgres. Read it before: then the database cannot be behind it.

    Raises:
        Unavailable: Postgres is away.
    """
    async with database.transaction(tenant_scope(tenant_id), isolation_level="REPEATABLE READ") as session:
        found = await read_head(session, tenant_id)
        check = ChainCheck(tenant_id, await read_checkpoints(session, tenant_id), signers)
        check.start(found[0].base_seq if found else 0, anchor)
        await in_order(session)
        rows = await session.stream(_ROWS, {"tenant": tenant_id}, execution_options={"yield_per": _BATCH})
        async for batch in rows.partitions(_BATCH):
            for row in batch:
                check.add(from_row(row))
            await asyncio.sleep(0)  # a batch takes a while, and others share this loop
    if found is None:
        return check.close(None, sealed=False)
    head, mac = found
    return check.close(head, sealed=sealer.holds(head, mac))


def verify_copy(lines: Iterable[bytes], signers: Signers) -> Report:
    """Go over an export in JSON Lines: it needs no database, and a public key alone.

    Raises:
        UsageError: it is no such export.
    """
    try:
        return _verify_copy(lines, signers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"This is no export of an audit log in JSON Lines: {error}.") from error


def _verify_copy(lines: Iterable[bytes], signers: Signers) -> Report:
    check: ChainCheck | None = None
    first: Entry | None = None
    rest = iter(lines)
    for line in rest:
        said: dict[str, Any] = orjson.loads(line)
        if "checkpoint" in said:
            if any(behind.strip() for behind in rest):
                raise ValueError("there are lines behind its last one")
            check_end(said)
            return _close_copy(check, first, said, signers)
        entry = from_json(said)
        if check is None or first is None:
            check, first = ChainCheck(entry.event.tenant, [], signers), entry
            check.resume(entry.seq - 1, None)
        check.add(entry)
    if check is None:
        raise ValueError("it is empty")
    return check.close_copy(None)


def _close_copy(check: ChainCheck | None, first: Entry | None, said: dict[str, Any], signers: Signers) -> Report:
    """What the last line says completes the check: what the first entry is chained to, and what was signed."""
    end = said["checkpoint"] and checkpoint_from_json(said["checkpoint"])
    if check is None or first is None:
        return ChainCheck(str(said["tenant"]), [], signers).close_copy(end)
    check.compare_first(first, bytes.fromhex(said["previous"]))
    if said["signed"] is not None:
        check.compare_signed(checkpoint_from_json(said["signed"]))
    return check.close_copy(end)
