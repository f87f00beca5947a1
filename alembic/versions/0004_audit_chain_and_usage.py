"""The chained audit log, its heads and checkpoints, and usage by day.

What was recorded before has no chain: it stays in `audit_unchained`, for the owner to read.

Revision: 0004
After: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from trunkline.migrations_sql import ROLE, grant, isolate, release

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
WRITERS = ("audit", "operator", "account", "signup")
"""Tasks that record events."""

# The partitions of a table take another name, and their indexes with them.
RENAME = """
DO $$
DECLARE
  part record;
BEGIN
  FOR part IN SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = '<to>'::regclass LOOP
    EXECUTE format('ALTER TABLE %I RENAME TO %I', part.name, replace(part.name, '<from>', '<to>'));
  END LOOP;
  FOR part IN SELECT c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
              JOIN pg_class t ON t.oid = i.indrelid
              WHERE t.relnamespace = 'public'::regnamespace AND t.relname LIKE '<to>%'
              AND c.relname LIKE '<from>%' LOOP
    EXECUTE format('ALTER INDEX %I RENAME TO %I', part.name, replace(part.name, '<from>', '<to>'));
  END LOOP;
END
$$"""

# Partitions are reached through their table alone, whose policies hold there. Their own let the owner move rows.
CLOSE_ONE = """
  EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', partition);
  EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', partition);
  EXECUTE format('CREATE POLICY owner_moves ON public.%I TO CURRENT_USER USING (true)', partition);"""
OPEN_ONE = """
  EXECUTE format('DROP POLICY owner_moves ON public.%I', partition);
  EXECUTE format('ALTER TABLE public.%I NO FORCE ROW LEVEL SECURITY', partition);
  EXECUTE format('ALTER TABLE public.%I DISABLE ROW LEVEL SECURITY', partition);"""
EACH_PARTITION = """
DO $$
DECLARE
  partition name;
BEGIN
  FOR partition IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = '<table>'::regclass LOOP<do>
  END LOOP;
END
$$"""

# As before, but by the time of recording, and each partition is closed. Rows move as they are: their hashes hold.
ENSURE_PARTITIONS = """
CREATE FUNCTION ensure_audit_partitions(months_ahead integer) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
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
    IF to_regclass('public.' || partition) IS NULL THEN
      LOCK TABLE ONLY public.audit_events IN SHARE UPDATE EXCLUSIVE MODE;
    END IF;
    IF to_regclass('public.' || partition) IS NULL THEN
      opens := month AT TIME ZONE 'UTC';
      closes := (month + interval '1 month') AT TIME ZONE 'UTC';
      EXECUTE format(
        'CREATE TABLE public.%I (LIKE public.audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
      <close>
      LOCK TABLE public.audit_events_default IN ACCESS EXCLUSIVE MODE;
      EXECUTE format(
        'WITH moved AS '
        '(DELETE FROM public.audit_events_default WHERE <time> >= %L AND <time> < %L RETURNING *) '
        'INSERT INTO public.%I SELECT * FROM moved', opens, closes, partition);
      EXECUTE format(
        'ALTER TABLE public.audit_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        partition, opens, closes);
    END IF;
  END LOOP;
END
$$"""

# Only what is old, and only where what remains can still be verified: each chain with entries in the month has a
# checkpoint of kind `retention` at its last one there, and none has an older entry left.
DROP_PARTITION = """
CREATE FUNCTION drop_audit_partition(month date, keep_months integer) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  opens timestamp := date_trunc('month', month::timestamp);
  partition text := 'audit_events_' || to_char(month, 'YYYY_MM');
  unsigned bigint;
BEGIN
  IF keep_months < 1 THEN
    RAISE EXCEPTION 'at least 1 month of the audit log is kept, not %', keep_months;
  END IF;
  IF opens + make_interval(months => keep_months) >= date_trunc('month', now() AT TIME ZONE 'UTC') THEN
    RAISE EXCEPTION '% is not % full months back', partition, keep_months;
  END IF;
  EXECUTE format(
    'SELECT count(*) FROM (SELECT tenant_id, max(seq) AS seq FROM public.%I GROUP BY tenant_id) AS last '
    'WHERE NOT EXISTS (SELECT FROM public.audit_checkpoints c '
    'WHERE c.tenant_id = last.tenant_id AND c.seq = last.seq AND c.kind = ''retention'')', partition) INTO unsigned;
  IF unsigned > 0 THEN
    RAISE EXCEPTION '% has % chains without a checkpoint at their last entry there', partition, unsigned;
  END IF;
  IF EXISTS (SELECT FROM public.audit_events_default WHERE recorded_at < opens AT TIME ZONE 'UTC') THEN
    RAISE EXCEPTION 'older entries than those of % are in the default partition', partition;
  END IF;
  EXECUTE format('DROP TABLE public.%I', partition);
END
$$"""

FUNCTIONS = ("ensure_audit_partitions(integer)", "drop_audit_partition(date, integer)")

RECORD = "SELECT, INSERT"
ADVANCE = "SELECT, INSERT, UPDATE"
POLICIES = (
    isolate("audit_events", of_tenant=RECORD, tasks=dict.fromkeys(WRITERS, RECORD)),
    isolate("audit_heads", of_tenant=ADVANCE, tasks=dict.fromkeys(WRITERS, ADVANCE)),
    isolate("audit_checkpoints", of_tenant=RECORD, tasks=dict.fromkeys((*WRITERS, "upkeep"), RECORD)),
    isolate("usage_daily", of_tenant="SELECT", tasks={"audit": ADVANCE, "operator": "SELECT", "verify": "SELECT"}),
)
GRANTS = {"audit_events": RECORD, "audit_heads": ADVANCE, "audit_checkpoints": RECORD, "usage_daily": ADVANCE}


def upgrade() -> None:
    set_aside()
    create_log()
    create_chain()
    create_usage()
    op.execute(ENSURE_PARTITIONS.replace("<time>", "recorded_at").replace("<close>", CLOSE_ONE))
    op.execute(DROP_PARTITION)
    allow(*FUNCTIONS)
    for table, commands in GRANTS.items():
        op.execute(grant(table, commands))
    for statements in POLICIES:
        for statement in statements:
            op.execute(statement)
    each_partition("audit_events", CLOSE_ONE)
    # What the functions of the owner look at, whom forced policies bind like everybody.
    op.execute("CREATE POLICY owner_reads ON audit_checkpoints FOR SELECT TO CURRENT_USER USING (true)")
    op.execute("SELECT ensure_audit_partitions(2)")


def set_aside() -> None:
    """Keep what was recorded without a chain, out of the platform's reach."""
    op.execute("DROP FUNCTION ensure_audit_partitions(integer)")
    for statement in release("audit_events"):
        op.execute(statement)
    op.rename_table("audit_events", "audit_unchained")
    op.execute(RENAME.replace("<from>", "audit_events").replace("<to>", "audit_unchained"))
    for statement in isolate("audit_unchained", tenant=None):
        op.execute(statement)
    op.execute("CREATE POLICY owner_moves ON audit_unchained TO CURRENT_USER USING (true)")
    each_partition("audit_unchained", CLOSE_ONE)


def create_log() -> None:
    zero = sa.text("0")
    op.create_table(
        "audit_events",
        sa.Column("recorded_at", TIME, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("occurred_at", TIME, nullable=False),
        sa.Column("actor_kind", sa.Text, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("session_id", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("duration_ms", sa.Float),
        sa.Column("compute_us", sa.BigInteger, nullable=False, server_default=zero),
        sa.Column("bytes_in", sa.BigInteger, nullable=False, server_default=zero),
        sa.Column("bytes_out", sa.BigInteger, nullable=False, server_default=zero),
        sa.Column("arguments_hash", sa.Text),
        sa.Column("api_pod", sa.Text),
        sa.Column("worker_pod", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("detail", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        postgresql_partition_by="RANGE (recorded_at)",
    )
    newest = sa.text("seq DESC")
    op.create_index("audit_events_tenant_id_seq_idx", "audit_events", ["tenant_id", newest])
    op.create_index("audit_events_tenant_id_id_idx", "audit_events", ["tenant_id", "id"])
    op.create_index("audit_events_tenant_id_actor_seq_idx", "audit_events", ["tenant_id", "actor", newest])
    op.create_index("audit_events_tenant_id_target_seq_idx", "audit_events", ["tenant_id", "target", newest])
    op.execute("CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT")


def create_chain() -> None:
    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.Column("base_seq", sa.BigInteger, nullable=False),
        sa.Column("broken_at", sa.BigInteger),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.Column("kid", sa.Text, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("kind IN ('regular', 'retention')", name="kind"),
    )


def create_usage() -> None:
    op.create_table(
        "usage_daily",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("tool", sa.Text, primary_key=True),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("calls", "errors", "compute_us", "bytes_in", "bytes_out")
        ),
    )


def allow(*functions: str) -> None:
    """Let the platform's role call functions of the owner, and nobody else."""
    for name in functions:
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO {ROLE}")


def each_partition(table: str, statements: str) -> None:
    """Run what names a `partition` for each of a table."""
    op.execute(EACH_PARTITION.replace("<table>", table).replace("<do>", statements))


def downgrade() -> None:
    """As 0002 left the log; what was recorded since goes with its chain."""
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}")
    for table in ("usage_daily", "audit_checkpoints", "audit_heads", "audit_events"):
        op.drop_table(table)
    each_partition("audit_unchained", OPEN_ONE)
    for statement in release("audit_unchained"):
        op.execute(statement)
    op.rename_table("audit_unchained", "audit_events")
    op.execute(RENAME.replace("<from>", "audit_unchained").replace("<to>", "audit_events"))
    for statement in isolate("audit_events", of_tenant=RECORD, tasks=dict.fromkeys(WRITERS, RECORD)):
        op.execute(statement)
    op.execute(grant("audit_events", RECORD))
    op.execute(ENSURE_PARTITIONS.replace("<time>", "occurred_at").replace("<close>", ""))
    allow(FUNCTIONS[0])
