"""Tenants, their toolsets and keys, signing keys, and the audit log.

Revision: 0001
After: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)

# Creates the partitions of this month and the next ones, by UTC months. Rows that the default partition
# caught meanwhile would forbid that, so they move first. One process at a time does it and the others find it
# done; a lock on the table, unlike an advisory one, also makes them see what was created while they waited.
ENSURE_PARTITIONS = """
CREATE FUNCTION ensure_audit_partitions(months_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  month timestamp;
  partition text;
  opens timestamptz;
  closes timestamptz;
BEGIN
  IF months_ahead NOT BETWEEN 0 AND 24 THEN
    RAISE EXCEPTION 'partitions are made for 0 to 24 months ahead, not %', months_ahead;
  END IF;
  FOR i IN 0..months_ahead LOOP
    month := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i);
    partition := 'audit_events_' || to_char(month, 'YYYY_MM');
    IF to_regclass(partition) IS NULL THEN
      LOCK TABLE ONLY audit_events IN SHARE UPDATE EXCLUSIVE MODE;
    END IF;
    IF to_regclass(partition) IS NULL THEN
      opens := month AT TIME ZONE 'UTC';
      closes := (month + interval '1 month') AT TIME ZONE 'UTC';
      EXECUTE format(
        'CREATE TABLE %I (LIKE audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
      LOCK TABLE audit_events_default IN ACCESS EXCLUSIVE MODE;
      EXECUTE format(
        'WITH moved AS '
        '(DELETE FROM audit_events_default WHERE occurred_at >= %L AND occurred_at < %L RETURNING *) '
        'INSERT INTO %I SELECT * FROM moved', opens, closes, partition);
      EXECUTE format(
        'ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        partition, opens, closes);
    END IF;
  END LOOP;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("slug", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("access", sa.Text, nullable=False, server_default="key"),
        sa.Column("status", sa.Text, nullable=False, server_default="active"),
        sa.Column("rate", sa.Float),
        sa.Column("burst", sa.Integer),
        sa.Column("in_flight", sa.Integer),
        sa.Column("sessions", sa.Integer),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
        sa.CheckConstraint("access IN ('key', 'public')", name="access"),
        sa.CheckConstraint("status IN ('active', 'suspended')", name="status"),
        sa.CheckConstraint("rate > 0 AND burst > 0 AND in_flight > 0 AND sessions > 0", name="limits"),
    )
    op.create_table(
        "tenant_toolsets",
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("config", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.UniqueConstraint("tenant_id", "position"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("tools", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.Column("replaced_by", sa.Text, sa.ForeignKey("api_keys.id", ondelete="SET NULL")),
    )
    op.create_index("api_keys_tenant_id_created_at_idx", "api_keys", ["tenant_id", "created_at"])
    revoked = sa.text("revoked_at IS NOT NULL")
    op.create_index("api_keys_revoked_at_idx", "api_keys", ["revoked_at"], postgresql_where=revoked)
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("algorithm", sa.Text, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("private_key", sa.LargeBinary, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("not_before", TIME, nullable=False, server_default=NOW),
        sa.Column("retired_at", TIME),
    )
    create_audit_log()


def create_audit_log() -> None:
    op.create_table(
        "audit_events",
        sa.Column("occurred_at", TIME, primary_key=True),
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("session_id", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("duration_ms", sa.Float),
        sa.Column("arguments_hash", sa.Text),
        sa.Column("api_pod", sa.Text),
        sa.Column("worker_pod", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("detail", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        postgresql_partition_by="RANGE (occurred_at)",
    )
    op.create_index(
        "audit_events_tenant_id_occurred_at_idx", "audit_events", ["tenant_id", sa.text("occurred_at DESC")]
    )
    op.execute("CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT")
    op.execute(ENSURE_PARTITIONS)
    op.execute("SELECT ensure_audit_partitions(2)")


def downgrade() -> None:
    op.execute("DROP FUNCTION ensure_audit_partitions(integer)")
    for table in ("audit_events", "signing_keys", "api_keys", "tenant_toolsets", "tenants"):
        op.drop_table(table)
