"""The tables of the audit log: its entries, how far each chain has come, what was signed, and what was used."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary, Text, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.db import Base, HexId


class AuditEvent(Base):
    """Who did what, when, for how long and with which outcome; kept when its tenant is deleted.

    Written by `trunkline.audit.heads` alone, with its place in the chain of its tenant. Partitions are by the time of
    recording, which grows with `seq`: an old partition is the beginning of every chain.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("audit_events_tenant_id_seq_idx", "tenant_id", text("seq DESC")),
        Index("audit_events_tenant_id_id_idx", "tenant_id", "id"),
        Index("audit_events_tenant_id_actor_seq_idx", "tenant_id", "actor", text("seq DESC")),
        Index("audit_events_tenant_id_target_seq_idx", "tenant_id", "target", text("seq DESC")),
        {"postgresql_partition_by": "RANGE (recorded_at)"},
    )

    recorded_at: Mapped[datetime] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(HexId, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    """See `trunkline.audit.chain`."""
    id: Mapped[str] = mapped_column(HexId)
    """Of a tool call the id of the call."""
    occurred_at: Mapped[datetime]
    actor_kind: Mapped[str] = mapped_column(Text)
    """`operator`, `user`, `key`, `public`, `system`."""
    actor: Mapped[str | None] = mapped_column(Text)
    """Id of the user, key or operator."""
    address: Mapped[str | None] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    """Such as `tools/call`, `key.issue`, `key.rotate`, `key.revoke`."""
    target: Mapped[str | None] = mapped_column(Text)
    """Tool name, key id, or whatever else the action was done to."""
    session_id: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    """`ok`, `tool_error`, `error`, `timeout`, `cancelled`, `abandoned`, `unknown`, `parked`."""
    duration_ms: Mapped[float | None]
    compute_us: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    bytes_in: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    bytes_out: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    arguments_hash: Mapped[str | None] = mapped_column(Text)
    """SHA-256 in hex; the arguments themselves are not kept."""
    api_pod: Mapped[str | None] = mapped_column(Text)
    worker_pod: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    """The client's own JSON-RPC id, as JSON."""
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class AuditHead(Base):
    """How far a tenant's chain has come; locked by whoever extends it. See `trunkline.audit.chain.Head`."""

    __tablename__ = "audit_heads"

    tenant_id: Mapped[str] = mapped_column(HexId, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    recorded_at: Mapped[datetime]
    base_seq: Mapped[int] = mapped_column(BigInteger)
    broken_at: Mapped[int | None] = mapped_column(BigInteger)
    mac: Mapped[bytes] = mapped_column(LargeBinary)
    """HMAC-SHA-256 over all the others."""


class AuditCheckpoint(Base):
    """What a chain's hash was at a number, signed. See `trunkline.audit.chain.Checkpoint`."""

    __tablename__ = "audit_checkpoints"
    __table_args__ = (CheckConstraint("kind IN ('regular', 'retention')", name="kind"),)

    tenant_id: Mapped[str] = mapped_column(HexId, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    recorded_at: Mapped[datetime]
    kid: Mapped[str] = mapped_column(Text)
    signature: Mapped[bytes] = mapped_column(LargeBinary)


class UsageDaily(Base):
    """What a tenant used on a day (UTC), by key and tool: the sums of its audit entries, which it outlives."""

    __tablename__ = "usage_daily"

    tenant_id: Mapped[str] = mapped_column(HexId, primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(Text, primary_key=True)
    """Empty for calls without a key."""
    tool: Mapped[str] = mapped_column(Text, primary_key=True)
    calls: Mapped[int] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(BigInteger)
    compute_us: Mapped[int] = mapped_column(BigInteger)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    bytes_out: Mapped[int] = mapped_column(BigInteger)


class UnchainedEvent(Base):
    """What was recorded before there were chains; nobody but the owner of the tables reaches it."""

    __tablename__ = "audit_unchained"
    __table_args__ = (
        Index("audit_unchained_tenant_id_occurred_at_idx", "tenant_id", text("occurred_at DESC")),
        {"postgresql_partition_by": "RANGE (occurred_at)"},
    )

    occurred_at: Mapped[datetime] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(HexId)
    actor: Mapped[str | None] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    target: Mapped[str | None] = mapped_column(Text)
    session_id: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    duration_ms: Mapped[float | None]
    arguments_hash: Mapped[str | None] = mapped_column(Text)
    api_pod: Mapped[str | None] = mapped_column(Text)
    worker_pod: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


async def ensure_partitions(session: AsyncSession, months_ahead: int = 2) -> None:
    """Have a partition for this month (UTC) and for so many to come.

    Safe from several processes at once, and cheap when there is nothing to do. Being late loses nothing: the
    default partition keeps a row whose month has none, and it moves when its month gets one.
    """
    await session.execute(text("SELECT ensure_audit_partitions(:months)"), {"months": months_ahead})
