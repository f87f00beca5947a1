"""The audit log's table: one row for each tool call and each event of a key."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, Text, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.db import Base, HexId


class AuditEvent(Base):
    """Who did what, when, for how long and with which outcome; kept when its tenant is deleted.

    Writing one twice is refused by the primary key: an event brings its id and time from where it happened.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("audit_events_tenant_id_occurred_at_idx", "tenant_id", text("occurred_at DESC")),
        {"postgresql_partition_by": "RANGE (occurred_at)"},
    )

    occurred_at: Mapped[datetime] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    """Of a tool call the id of the call."""
    tenant_id: Mapped[str] = mapped_column(HexId)
    actor: Mapped[str | None] = mapped_column(Text)
    """Key id; NULL for public access and for the operator."""
    action: Mapped[str] = mapped_column(Text)
    """Such as `tools/call`, `key.issue`, `key.rotate`, `key.revoke`."""
    target: Mapped[str | None] = mapped_column(Text)
    """Tool name or key id."""
    session_id: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    """`ok`, `tool_error`, `error`, `timeout`, `cancelled`, `abandoned`, `unknown`, `parked`."""
    duration_ms: Mapped[float | None]
    arguments_hash: Mapped[str | None] = mapped_column(Text)
    """SHA-256 in hex; the arguments themselves are not kept."""
    api_pod: Mapped[str | None] = mapped_column(Text)
    worker_pod: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    """The client's own JSON-RPC id, as JSON."""
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


async def ensure_partitions(session: AsyncSession, months_ahead: int = 2) -> None:
    """Have a partition for this month (UTC) and for so many to come.

    Safe from several processes at once, and cheap when there is nothing to do. Being late loses nothing: the
    default partition keeps a row whose month has none, and it moves when its month gets one.
    """
    await session.execute(text("SELECT ensure_audit_partitions(:months)"), {"months": months_ahead})
