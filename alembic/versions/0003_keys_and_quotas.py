"""What keys and tenants may use: addresses, limits of keys, quotas of tenants.

Revision: 0003
After: 0002
"""

from __future__ import annotations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
