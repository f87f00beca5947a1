"""Appends to the chains of tenants in Postgres, in the caller's transaction.

Lock order everywhere: the rows of the business first, then heads (by tenant's id), then usage. A chain's head is
locked from the moment that numbers are given until the commit, so numbers have no gaps and entries one order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import structlog
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.chain import (
    CHECKPOINT_EVERY,
    Checkpoint,
    Event,
    Head,
    canonical,
    link,
    microseconds,
    no_head,
    time_of,
)
from trunkline.audit.signing import CheckpointSigner, HeadSealer
from trunkline.audit.usage import roll_up

log = structlog.get_logger("trunkline.audit")

_SHARE: Final = 500
"""Events that are chained without letting others run: a millisecond."""
_SKEW_US: Final = 3_600_000_000
"""An event is looked for among the entries that were recorded since an hour before it happened: clocks differ."""

_LOCK: Final = text("""
    SELECT tenant_id, seq, hash, recorded_at, base_seq, broken_at, mac, clock_timestamp() AS now FROM audit_heads
    WHERE tenant_id = ANY(CAST(CAST(:tenants AS text[]) AS uuid[])) ORDER BY tenant_id FOR UPDATE
""")
_BEGIN: Final = text("""
    INSERT INTO audit_heads (tenant_id, seq, hash, recorded_at, base_seq, mac)
    SELECT t, 0, h, timestamptz 'epoch', 0, m
    FROM unnest(CAST(CAST(:tenants AS text[]) AS uuid[]), CAST(:hashes AS bytea[]), CAST(:macs AS bytea[]))
         AS head (t, h, m) ORDER BY t ON CONFLICT (tenant_id) DO NOTHING
""")
# What is many goes as one text or one string of bytes: as arrays it would cost the worker more than all else here.
_KNOWN: Final = text("""
    SELECT e.tenant_id, e.id
    FROM unnest(CAST(string_to_array(:tenants, ',') AS uuid[]), CAST(string_to_array(:ids, ',') AS uuid[]))
         AS w (t, i)
    JOIN audit_events e ON e.tenant_id = w.t AND e.id = w.i WHERE e.recorded_at >= :since
""")
# Postgres takes apart what was hashed, so the row is that and nothing else, and the worker hardly pays for it. The
# three parts touch rows that the locked heads guard, so their order does not matter.
_APPEND: Final = text("""
    WITH appended AS (
      INSERT INTO audit_events (
        seq, recorded_at, tenant_id, id, occurred_at, actor_kind, actor, address, action, target, session_id, outcome,
        duration_ms, compute_us, bytes_in, bytes_out, arguments_hash, api_pod, worker_pod, request_id, detail, hash)
      SELECT (e ->> 1)::bigint, timestamptz 'epoch' + (e ->> 2)::bigint * interval '1 microsecond',
        (e ->> 3)::uuid, (e ->> 4)::uuid, timestamptz 'epoch' + (e ->> 5)::bigint * interval '1 microsecond',
        e ->> 6, e ->> 7, e ->> 8, e ->> 9, e ->> 10, e ->> 11, e ->> 12,
        (e ->> 13)::float8 / 1000, (e ->> 14)::bigint, (e ->> 15)::bigint,
        (e ->> 16)::bigint, e ->> 17, e ->> 18, e ->> 19, e ->> 20, e -> 21,
        substring(CAST(:hashes AS bytea) FROM (32 * n - 31)::integer FOR 32)
      FROM jsonb_array_elements(CAST(CAST(:entries AS text) AS jsonb)) WITH ORDINALITY AS entry (e, n)
    ), used AS (
      INSERT INTO usage_daily AS u (tenant_id, day, key_id, tool, calls, errors, compute_us, bytes_in, bytes_out)
      SELECT * FROM unnest(
        CAST(CAST(:used_tenants AS text[]) AS uuid[]), CAST(:days AS date[]), CAST(:used_keys AS text[]),
        CAST(:tools AS text[]), CAST(:calls AS bigint[]), CAST(:errors AS bigint[]), CAST(:compute AS bigint[]),
        CAST(:bytes_in AS bigint[]), CAST(:bytes_out AS bigint[]))
      ON CONFLICT (tenant_id, day, key_id, tool) DO UPDATE SET calls = u.calls + excluded.calls,
        errors = u.errors + excluded.errors, compute_us = u.compute_us + excluded.compute_us,
        bytes_in = u.bytes_in + excluded.bytes_in, bytes_out = u.bytes_out + excluded.bytes_out
    )
    UPDATE audit_heads AS head SET seq = s, hash = h, recorded_at = r, broken_at = b, mac = m
    FROM unnest(
      CAST(CAST(:tenants AS text[]) AS uuid[]), CAST(:seqs AS bigint[]), CAST(:ends AS bytea[]),
      CAST(:recorded AS timestamptz[]), CAST(:broken AS bigint[]), CAST(:macs AS bytea[])) AS new (t, s, h, r, b, m)
    WHERE head.tenant_id = new.t
""")
# A checkpoint that is there was signed over another chain, or for the same entry: it stays, and `verify` tells which.
_SIGN: Final = text("""
    INSERT INTO audit_checkpoints (tenant_id, seq, hash, recorded_at, kind, kid, signature)
    SELECT t, s, h, r, k, i, g
    FROM unnest(
      CAST(CAST(:tenants AS text[]) AS uuid[]), CAST(:seqs AS bigint[]), CAST(:hashes AS bytea[]),
      CAST(:recorded AS timestamptz[]), CAST(:kinds AS text[]), CAST(:kids AS text[]), CAST(:signatures AS bytea[]))
      AS checkpoint (t, s, h, r, k, i, g)
    ON CONFLICT (tenant_id, seq, kind) DO NOTHING
""")


class Grown(NamedTuple):
    """A chain that has grown in one transaction."""

    start: Head
    end: Head


class Appended(NamedTuple):
    """What an append did."""

    written: int
    """Events that were not there before."""
    grown: Sequence[Grown]
    """The chains that have grown."""
    broken: int
    """Chains that were extended although their head was not good, for the first time."""


class _Chains:
    """The new entries of one append."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.hashes: list[bytes] = []
        self.checkpoints: list[Checkpoint] = []

    async def extend(self, head: Head, events: Iterable[Event], now_us: int) -> Head:
        """Chain the events to this head; gives the next one."""
        seq, previous = head.seq, head.hash
        recorded_us = max(head.recorded_us, now_us)
        for event in events:
            seq += 1
            entry = canonical(seq, recorded_us, event)
            previous = link(previous, entry)
            self.entries.append(entry)
            self.hashes.append(previous)
            if len(self.hashes) % _SHARE == 0:
                await asyncio.sleep(0)
            if seq % CHECKPOINT_EVERY == 0:
                self.checkpoints.append(Checkpoint(head.tenant, seq, previous, recorded_us, "regular"))
        return head._replace(seq=seq, hash=previous, recorded_us=recorded_us)


async def is_newest(session: AsyncSession, sealer: HeadSealer, tenant: str) -> bool:
    """Whether the head of a chain has its code from the newest root; so it is where there is no chain."""
    row = (await session.execute(_LOCK, {"tenants": [tenant]})).one_or_none()
    return row is None or sealer.is_newest(head_of(row), row.mac)


class Heads:
    """Appends events to chains; one for each process, with the keys of the deployment."""

    def __init__(self, root: SecretStr) -> None:
        self._sealer = HeadSealer(root)
        self._signer = CheckpointSigner(root)
        self._doubted: set[str] = set()

    def doubt(self, tenant: str) -> None:
        """Mark this chain as broken with its next entry: what is known of it elsewhere says that it is another."""
        self._doubted.add(tenant)

    async def append(self, session: AsyncSession, events: Sequence[Event]) -> Appended:
        """Append the events that are not there yet, each to the chain of its tenant, in the order given.

        It locks the heads of the tenants until the transaction ends; so do it last. An event that cannot be written
        fails all of them, and no number is used up.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres is away, or refuses an event (SQLSTATE classes 22 and 23).
            TypeError: an event holds what is no JSON.
        """
        by_tenant: dict[str, dict[str, Event]] = {}
        for event in events:
            by_tenant.setdefault(event.tenant, {}).setdefault(event.id, event)
        heads, now_us = await self._lock(session, sorted(by_tenant))
        for tenant, identity in await _known(session, events):
            del by_tenant[tenant][identity]
        chains = _Chains()
        new = {
            tenant: await chains.extend(heads[tenant], each.values(), now_us)
            for tenant, each in by_tenant.items()
            if each
        }
        if new:
            fresh = [event for each in by_tenant.values() for event in each.values()]
            await session.execute(_APPEND, self._rows(chains, new, fresh))
        if chains.checkpoints:
            await self.sign(session, chains.checkpoints)
        broken = sum(heads[tenant].broken_at == heads[tenant].seq for tenant in new)
        grown = [Grown(heads[tenant], end) for tenant, end in new.items()]
        return Appended(len(chains.entries), grown, broken)

    async def lock(self, session: AsyncSession, tenants: Iterable[str]) -> dict[str, Head]:
        """The heads of some chains, locked until the transaction ends."""
        heads, _ = await self._lock(session, sorted(tenants))
        return heads

    async def sign(self, session: AsyncSession, checkpoints: Iterable[Checkpoint]) -> None:
        """Keep signed checkpoints; their chains are locked."""
        signed = [self._signer.sign(each) for each in checkpoints]
        await session.execute(
            _SIGN,
            {
                "tenants": [each.tenant for each in signed],
                "seqs": [each.seq for each in signed],
                "hashes": [each.hash for each in signed],
                "recorded": [time_of(each.recorded_us) for each in signed],
                "kinds": [each.kind for each in signed],
                "kids": [each.kid for each in signed],
                "signatures": [each.signature for each in signed],
            },
        )

    async def _lock(self, session: AsyncSession, tenants: list[str]) -> tuple[dict[str, Head], int]:
        found = await self._read(session, tenants)
        if missing := [tenant for tenant in tenants if tenant not in found[0]]:
            first = [no_head(tenant) for tenant in missing]
            await session.execute(
                _BEGIN,
                {
                    "tenants": missing,
                    "hashes": [head.hash for head in first],
                    "macs": [self._sealer.mac(head) for head in first],
                },
            )
            found = await self._read(session, tenants)
        return found

    async def _read(self, session: AsyncSession, tenants: list[str]) -> tuple[dict[str, Head], int]:
        heads: dict[str, Head] = {}
        now_us = 0
        for row in (await session.execute(_LOCK, {"tenants": tenants})).all():
            head = head_of(row)
            good = self._sealer.holds(head, row.mac)
            if good and head.broken_at is not None:
                self._doubted.discard(head.tenant)
            heads[head.tenant] = head if good and head.tenant not in self._doubted else _broken(head)
            now_us = max(now_us, microseconds(row.now))
        return heads, now_us

    def _rows(self, chains: _Chains, heads: Mapping[str, Head], events: Iterable[Event]) -> dict[str, Any]:
        used = roll_up(events)
        return {
            "entries": f"[{b','.join(chains.entries).decode()}]",
            "hashes": b"".join(chains.hashes),
            "used_tenants": [key.tenant for key in used],
            "days": [key.day for key in used],
            "used_keys": [key.key_id for key in used],
            "tools": [key.tool for key in used],
            "calls": [each.calls for each in used.values()],
            "errors": [each.errors for each in used.values()],
            "compute": [each.compute_us for each in used.values()],
            "bytes_in": [each.bytes_in for each in used.values()],
            "bytes_out": [each.bytes_out for each in used.values()],
            "tenants": list(heads),
            "seqs": [head.seq for head in heads.values()],
            "ends": [head.hash for head in heads.values()],
            "recorded": [time_of(head.recorded_us) for head in heads.values()],
            "broken": [head.broken_at for head in heads.values()],
            "macs": [self._sealer.mac(head) for head in heads.values()],
        }


def head_of(row: Any) -> Head:
    """The head that a row of `audit_heads` holds, by the names of its columns."""
    recorded: datetime = row.recorded_at
    return Head(row.tenant_id.hex, row.seq, row.hash, microseconds(recorded), row.base_seq, row.broken_at)


async def _known(session: AsyncSession, events: Sequence[Event]) -> set[tuple[str, str]]:
    """Tenant and id of those events that are in their chains already."""
    since = min(event.occurred_us for event in events) - _SKEW_US
    found = await session.execute(
        _KNOWN,
        {
            "tenants": ",".join([event.tenant for event in events]),
            "ids": ",".join([event.id for event in events]),
            "since": time_of(since),
        },
    )
    return {(tenant.hex, identity.hex) for tenant, identity in found.all()}


def _broken(head: Head) -> Head:
    """A head that is extended although it is not the one that was written: it says so from then on."""
    log.error("the head of an audit chain was tampered with", tenant=head.tenant, seq=head.seq)
    return head if head.broken_at is not None else head._replace(broken_at=head.seq)
