"""What keys and tenants may use: addresses, limits of keys, quotas of tenants.

Revision: 0003
After: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

QUOTAS = ("monthly_calls", "monthly_calls_soft", "monthly_compute", "monthly_compute_soft")


def upgrade() -> None:
    empty = sa.text("'{}'")
    op.add_column("api_keys", sa.Column("addresses", postgresql.ARRAY(sa.Text), nullable=False, server_default=empty))
    limits = sa.Column("limits", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb"))
    op.add_column("api_keys", limits)
    op.add_column("api_keys", sa.Column("kid", sa.Text))
    op.add_column("api_keys", sa.Column("created_by", sa.Text, nullable=False, server_default=sa.text("''")))
    live = sa.text("revoked_at IS NULL")
    op.create_index("api_keys_kid_idx", "api_keys", ["kid"], postgresql_where=live)
    for quota in QUOTAS:
        op.add_column("tenants", sa.Column(quota, sa.BigInteger))
    above = " AND ".join(f"{quota} > 0" for quota in QUOTAS)
    op.create_check_constraint(op.f("tenants_quotas_check"), "tenants", above)
    below = "monthly_calls_soft <= monthly_calls AND monthly_compute_soft <= monthly_compute"
    op.create_check_constraint(op.f("tenants_soft_quotas_check"), "tenants", below)


def downgrade() -> None:
    op.drop_constraint("tenants_soft_quotas_check", "tenants")
    op.drop_constraint("tenants_quotas_check", "tenants")
    for quota in reversed(QUOTAS):
        op.drop_column("tenants", quota)
    op.drop_index("api_keys_kid_idx", "api_keys")
    for column in ("created_by", "kid", "limits", "addresses"):
        op.drop_column("api_keys", column)
