"""Row-level security and grants as statements, written in one place for every migration.

Migrations alone use it; it imports nothing of the package, so that an old migration never changes with the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ROLE: Final = "trunkline_app"
"""What every transaction of the platform acts as: owns nothing, and row-level security binds it."""
SCOPED: Final = "(SELECT trunkline_task()) IS NOT NULL"
"""A condition that holds in every scope, and raises without one."""
OF_TENANT: Final = "(SELECT trunkline_task()) = ''"
"""A condition that holds in the scope of any tenant, and raises without a scope."""

_COMMANDS: Final = {"SELECT", "INSERT", "UPDATE", "DELETE", "ALL"}

_DROP_POLICIES: Final = """
DO $$
DECLARE policy name;
BEGIN
  FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = '<table>'::regclass LOOP
    EXECUTE format('DROP POLICY %I ON <table>', policy);
  END LOOP;
END
$$"""


def isolate(
    table: str,
    *,
    tenant: str | None = "tenant_id",
    of_tenant: str = "ALL",
    condition: str = "",
    tasks: Mapping[str, str] | None = None,
) -> list[str]:
    """The statements that force row-level security on a table, and say who sees which of its rows.

    Args:
        table: its name, or that of a partitioned table: partitions are reached through it.
        tenant: the column that names a row's tenant; None where no tenant's transaction ever sees a row.
        of_tenant: what a tenant's transaction may do with the tenant's rows: `ALL`, or commands with commas.
        condition: which rows are the tenant's, where that is not told by a column.
        tasks: by task of the platform, what it may do with all rows, as in `of_tenant`.
    """
    statements = [f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY", f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"]
    own = condition or (f"{tenant} = (SELECT trunkline_tenant())" if tenant else "")
    if own:
        statements += _policies(table, "of_tenant", of_tenant, own)
    for task, commands in (tasks or {}).items():
        statements += _policies(table, f"task_{task}", commands, f"(SELECT trunkline_task()) = '{task}'")
    return statements


def release(table: str) -> list[str]:
    """The statements that undo what `isolate` did, all policies of the table included."""
    dropped = _DROP_POLICIES.replace("<table>", table)
    off = (f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY", f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    return [dropped, *off, f"REVOKE ALL ON {table} FROM {ROLE}"]


def grant(table: str, commands: str) -> str:
    """The statement that lets the platform do that with the rows that policies show it, such as `SELECT, INSERT`."""
    return f"GRANT {commands} ON {table} TO {ROLE}"


def _policies(table: str, name: str, commands: str, condition: str) -> list[str]:
    wanted = [command.strip() for command in commands.split(",")]
    if not set(wanted) <= _COMMANDS:
        raise ValueError(f"a policy is for {', '.join(sorted(_COMMANDS))}; not for {commands!r}")
    one = len(wanted) == 1
    return [
        f"CREATE POLICY {name if one else f'{name}_{command.lower()}'} ON {table} FOR {command} TO {ROLE}"
        + (f" USING ({condition})" if command != "INSERT" else "")
        + (f" WITH CHECK ({condition})" if command in {"ALL", "INSERT", "UPDATE"} else "")
        for command in wanted
    ]
