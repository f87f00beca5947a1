"""Accounts, members and operators; row-level security on every table.

Revision: 0002
After: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trunkline.migrations_sql import OF_TENANT, ROLE, grant, isolate, release

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
TIME = sa.DateTime(timezone=True)

# Roles belong to the whole server, and databases of one server may be migrated at the same moment. An owner with
# CREATEROLE makes itself a member; any other is told what an administrator has to run.
MAKE_ROLE = f"""
DO $$
BEGIN
  BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
      CREATE ROLE {ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT NOCREATEDB NOCREATEROLE;
    END IF;
  EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
  END;
  BEGIN
    SET LOCAL ROLE {ROLE};
    RESET ROLE;
  EXCEPTION
    WHEN insufficient_privilege THEN GRANT {ROLE} TO CURRENT_USER;
  END;
EXCEPTION
  WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'The role {ROLE} is missing; as an administrator run: CREATE ROLE {ROLE} NOLOGIN; '
      'GRANT {ROLE} TO %;', quote_ident(current_user) USING ERRCODE = 'TL001';
END
$$
"""

# Without a scope nothing is seen and nothing is written: both raise. A setting that a transaction of the same pooled
# connection had is an empty string, not NULL.
SCOPE_FUNCTIONS = (
    """
CREATE FUNCTION trunkline_task() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog AS $$
DECLARE
  scope text := coalesce(current_setting('trunkline.scope', true), '');
BEGIN
  IF scope = '' OR (scope = 'tenant' AND coalesce(current_setting('trunkline.tenant', true), '') = '') THEN
    RAISE 'no tenant is set for this transaction' USING ERRCODE = '42501';
  END IF;
  RETURN CASE scope WHEN 'tenant' THEN '' ELSE scope END;
END
$$""",
    """
CREATE FUNCTION trunkline_tenant() RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog AS $$
DECLARE
  scope text := coalesce(current_setting('trunkline.scope', true), '');
  tenant text := coalesce(current_setting('trunkline.tenant', true), '');
BEGIN
  IF scope = '' OR (scope = 'tenant' AND tenant = '') THEN
    RAISE 'no tenant is set for this transaction' USING ERRCODE = '42501';
  END IF;
  RETURN CASE scope WHEN 'tenant' THEN tenant::uuid END;
END
$$""",
)

ALL = "SELECT, INSERT, UPDATE, DELETE"
GRANTS = {
    "tenants": ALL,
    "tenant_toolsets": ALL,
    "api_keys": "SELECT, INSERT, UPDATE",
    "signing_keys": "SELECT, INSERT, UPDATE",
    "audit_events": "SELECT, INSERT",
    "users": "SELECT, INSERT, UPDATE",
    "passwords": ALL,
    "memberships": ALL,
    "invitations": ALL,
    "signup_codes": ALL,
    "password_resets": ALL,
    "operators": ALL,
    "sign_ins": ALL,
}
MADE = (
    "users",
    "passwords",
    "memberships",
    "invitations",
    "signup_codes",
    "password_resets",
    "operators",
    "sign_ins",
)
MEMBER = "EXISTS (SELECT FROM memberships m WHERE m.user_id = users.id AND m.tenant_id = (SELECT trunkline_tenant()))"
POLICIES = (
    isolate(
        "tenants",
        tenant="id",
        tasks={"directory": "SELECT", "signup": "SELECT, INSERT", "operator": "ALL", "verify": "SELECT"}
        | {"upkeep": "SELECT", "account": "SELECT"},
    ),
    isolate("tenant_toolsets", tasks={"directory": "SELECT", "operator": "SELECT"}),
    isolate("api_keys", tasks={"verify": "SELECT, UPDATE", "directory": "SELECT", "operator": "SELECT"}),
    isolate(
        "signing_keys",
        condition=OF_TENANT,
        of_tenant="SELECT, INSERT",
        tasks={"verify": "SELECT", "operator": "ALL"},
    ),
    isolate(
        "audit_events",
        of_tenant="SELECT, INSERT",
        tasks=dict.fromkeys(("audit", "operator", "account", "signup"), "SELECT, INSERT"),
    ),
    isolate(
        "users",
        condition=MEMBER,
        of_tenant="SELECT",
        tasks={"account": "ALL", "signup": "SELECT, INSERT", "operator": "SELECT"},
    ),
    isolate("passwords", tenant=None, tasks={"account": "ALL", "signup": "SELECT, INSERT"}),
    isolate("memberships", tasks={"account": "SELECT", "signup": "SELECT, INSERT", "operator": "SELECT"}),
    isolate("invitations", tasks={"account": "SELECT"}),
    isolate("signup_codes", tenant=None, tasks={"signup": "SELECT, UPDATE", "account": "SELECT", "operator": "ALL"}),
    isolate("password_resets", tenant=None, tasks={"account": "ALL"}),
    isolate("operators", tenant=None, tasks={"account": "SELECT", "operator": "ALL"}),
    isolate("sign_ins", tenant=None, tasks={"account": "ALL", "signup": "SELECT, INSERT", "operator": "ALL"}),
)


def upgrade() -> None:
    op.execute(MAKE_ROLE)
    op.execute(f"GRANT USAGE ON SCHEMA public TO {ROLE}")
    for function in SCOPE_FUNCTIONS:
        op.execute(function)
    for name in ("trunkline_task()", "trunkline_tenant()"):
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO {ROLE}")
    create_accounts()
    # Partitions are the owner's to make, whoever finds one missing.
    op.execute(
        "ALTER FUNCTION ensure_audit_partitions(integer) SECURITY DEFINER "
        "SET search_path = pg_catalog, public, pg_temp"
    )
    op.execute("REVOKE ALL ON FUNCTION ensure_audit_partitions(integer) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION ensure_audit_partitions(integer) TO {ROLE}")
    for table, commands in GRANTS.items():
        op.execute(grant(table, commands))
    for statements in POLICIES:
        for statement in statements:
            op.execute(statement)


def create_accounts() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("email", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("disabled_at", TIME),
        sa.Column("last_sign_in_at", TIME),
        sa.CheckConstraint("email = lower(email)", name="email"),
    )
    op.create_table(
        "passwords",
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("changed_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_table(
        "memberships",
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.CheckConstraint("role IN ('owner', 'admin', 'developer', 'auditor')", name="role"),
    )
    op.create_index("memberships_user_id_idx", "memberships", ["user_id"])
    op.create_table(
        "invitations",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("accepted_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.CheckConstraint("role IN ('owner', 'admin', 'developer', 'auditor')", name="role"),
    )
    op.create_index("invitations_tenant_id_created_at_idx", "invitations", ["tenant_id", "created_at"])
    op.create_table(
        "signup_codes",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("email", sa.Text),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME),
    )
    op.create_table(
        "password_resets",
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("expires_at", TIME, nullable=False),
    )
    op.create_table(
        "operators",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("email", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("disabled_at", TIME),
        sa.CheckConstraint("email = lower(email)", name="email"),
    )
    op.create_table(
        "sign_ins",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id", ondelete="CASCADE")),
        sa.Column("operator_id", sa.Uuid, sa.ForeignKey("operators.id", ondelete="CASCADE")),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("last_seen_at", TIME, nullable=False, server_default=NOW),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.CheckConstraint("kind IN ('cookie', 'token')", name="kind"),
        sa.CheckConstraint("num_nonnulls(user_id, operator_id) = 1", name="owner"),
    )
    op.create_index("sign_ins_user_id_idx", "sign_ins", ["user_id"])
    op.create_index("sign_ins_expires_at_idx", "sign_ins", ["expires_at"])


def downgrade() -> None:
    """Take back all but the role: it is the whole server's, and other databases may need it."""
    for table in reversed(GRANTS):
        for statement in release(table):
            op.execute(statement)
    for table in reversed(MADE):
        op.drop_table(table)
    op.execute("ALTER FUNCTION ensure_audit_partitions(integer) SECURITY INVOKER RESET ALL")
    op.execute("GRANT EXECUTE ON FUNCTION ensure_audit_partitions(integer) TO PUBLIC")
    op.execute(f"REVOKE ALL ON FUNCTION ensure_audit_partitions(integer) FROM {ROLE}")
    op.execute("DROP FUNCTION trunkline_tenant()")
    op.execute("DROP FUNCTION trunkline_task()")
    op.execute(f"REVOKE USAGE ON SCHEMA public FROM {ROLE}")
