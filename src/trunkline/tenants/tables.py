"""The tables of tenants, their toolsets and keys, and of the platform's signing keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.db import Base, HexId


class TenantRow(Base):
    """A tenant. A limit that is NULL is the deployment's default from the settings."""

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("access IN ('key', 'public')", name="access"),
        CheckConstraint("status IN ('active', 'suspended')", name="status"),
        CheckConstraint("rate > 0 AND burst > 0 AND in_flight > 0 AND sessions > 0", name="limits"),
        CheckConstraint(
            "monthly_calls > 0 AND monthly_calls_soft > 0 AND monthly_compute > 0 AND monthly_compute_soft > 0",
            name="quotas",
        ),
        CheckConstraint(
            "monthly_calls_soft <= monthly_calls AND monthly_compute_soft <= monthly_compute", name="soft_quotas"
        ),
    )

    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text)
    access: Mapped[str] = mapped_column(Text, server_default="key")
    status: Mapped[str] = mapped_column(Text, server_default="active")
    rate: Mapped[float | None]
    burst: Mapped[int | None]
    in_flight: Mapped[int | None]
    sessions: Mapped[int | None]
    monthly_calls: Mapped[int | None] = mapped_column(BigInteger)
    monthly_calls_soft: Mapped[int | None] = mapped_column(BigInteger)
    monthly_compute: Mapped[int | None] = mapped_column(BigInteger)
    """Seconds; a quota that is NULL is none."""
    monthly_compute_soft: Mapped[int | None] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(BigInteger)
    """Grows with every change of the tenant or its toolsets; of two snapshots the higher one is the truth."""
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class ToolsetRow(Base):
    """A toolset that the tenant switched on at some time; it stays, since names depend on its position."""

    __tablename__ = "tenant_toolsets"
    __table_args__ = (UniqueConstraint("tenant_id", "position"),)

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int]
    enabled: Mapped[bool]
    config: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    config_version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The tenant's version with which it was configured; 0 while it is not."""
    secrets: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """By field, `v`: the version in which it was set, and `s`: the sealed value in base64."""


class HostedToolsetRow(Base):
    """A toolset that workers host, as they say at their start: API pods import no servers."""

    __tablename__ = "hosted_toolsets"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    title: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    config_schema: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    seen_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class IdempotencyRow(Base):
    """A request that made something, by its Idempotency-Key, and what it was answered."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        UniqueConstraint("tenant_id", "principal", "digest", postgresql_nulls_not_distinct=True),
        Index(None, "created_at"),
    )

    id: Mapped[str] = mapped_column(HexId, primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(HexId)
    """NULL for what is no tenant's, such as signing up."""
    principal: Mapped[str] = mapped_column(Text)
    digest: Mapped[bytes]
    """SHA-256 of the key."""
    request_hash: Mapped[bytes]
    status: Mapped[int | None]
    """NULL while it runs."""
    response: Mapped[bytes | None]
    """The answer, sealed: it may hold an API key, which is shown once."""
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class KeyRow(Base):
    """What is known of an API key; the key itself is nowhere."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index(None, "tenant_id", "created_at"),
        Index(None, "revoked_at", postgresql_where=text("revoked_at IS NOT NULL")),
        Index(None, "kid", postgresql_where=text("revoked_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    tools: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    """From when on it is refused; in the future while a rotation overlaps."""
    last_used_at: Mapped[datetime | None]
    replaced_by: Mapped[str | None] = mapped_column(Text, ForeignKey("api_keys.id", ondelete="SET NULL"))
    addresses: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """Ranges from which it may be used; everywhere where there are none."""
    limits: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """`KeyLimits`, without what it does not limit."""
    kid: Mapped[str | None] = mapped_column(Text)
    """The signing key that it hangs on; NULL for those from before that was noted."""
    created_by: Mapped[str] = mapped_column(Text, server_default=text("''"))


class SigningKeyRow(Base):
    """A key pair that signs API keys."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(Text, primary_key=True)
    algorithm: Mapped[str] = mapped_column(Text)
    public_key: Mapped[bytes]
    """32 bytes (RFC 8032, section 5.1.5)."""
    private_key: Mapped[bytes]
    """32 bytes, sealed (`trunkline.tenants.sealing`)."""
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    not_before: Mapped[datetime] = mapped_column(server_default=text("now()"))
    """It signs from then on; published before, so that every pod knows it by then."""
    retired_at: Mapped[datetime | None]
    """From then on nothing that it signed is accepted."""
