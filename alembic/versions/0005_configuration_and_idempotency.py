"""Configuration of toolsets, and what requests with an Idempotency-Key were answered.

Revision: 0005
After: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from trunkline.migrations_sql import SCOPED, grant, isolate, release

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)
EMPTY = sa.text("'{}'::jsonb")

POLICIES = (
    # What there is to switch on is the operator's, and for every tenant to see.
    isolate("hosted_toolsets", condition=SCOPED, of_tenant="SELECT", tasks={"catalog": "ALL"}),
    # Requests that are no tenant's, such as signing up, are seen by the platform's tasks alone.
    isolate(
        "idempotency_keys",
        condition="tenant_id IS NOT DISTINCT FROM (SELECT trunkline_tenant())",
        tasks={"upkeep": "SELECT, DELETE"},
    ),
)


def upgrade() -> None:
    op.add_column(
        "tenant_toolsets",
        sa.Column("config_version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.add_column("tenant_toolsets", sa.Column("secrets", postgresql.JSONB, nullable=False, server_default=EMPTY))
    op.create_table(
        "hosted_toolsets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("config_schema", postgresql.JSONB),
        sa.Column("seen_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("response", sa.LargeBinary),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.UniqueConstraint("tenant_id", "principal", "digest", postgresql_nulls_not_distinct=True),
    )
    op.create_index("idempotency_keys_created_at_idx", "idempotency_keys", ["created_at"])
    for table in ("hosted_toolsets", "idempotency_keys"):
        op.execute(grant(table, "SELECT, INSERT, UPDATE, DELETE"))
    for statements in POLICIES:
        for statement in statements:
            op.execute(statement)


def downgrade() -> None:
    for table in ("idempotency_keys", "hosted_toolsets"):
        for statement in release(table):
            op.execute(statement)
        op.drop_table(table)
    op.drop_column("tenant_toolsets", "secrets")
    op.drop_column("tenant_toolsets", "config_version")
