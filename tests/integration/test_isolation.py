"""Nothing of one tenant is seen or changed in the scope of another, in any table that there is.

The tables are those of the migrated database, not of a list: one that a later migration adds without isolating it
fails here, and so does one whose rows this test cannot make.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

import asyncpg
import pytest

import trunkline
from trunkline.db import Task

ROLE = "trunkline_app"
MINE, OTHERS = uuid.UUID(int=0xA), uuid.UUID(int=0xB)
PLATFORM = uuid.UUID(int=0)
OF_NO_TENANT = {
    "hosted_toolsets": True,
    "operators": False,
    "password_resets": False,
    "passwords": False,
    "sign_ins": False,
    "signing_keys": True,
    "signup_codes": False,
    "users": False,
}
"""Tables without a tenant's column, and whether a tenant's transaction reads them all the same."""
CHECKED: Mapping[tuple[str, str], object] = {
    ("audit_checkpoints", "kind"): "regular",
    ("invitations", "role"): "auditor",
    ("memberships", "role"): "auditor",
    ("sign_ins", "kind"): "cookie",
    ("sign_ins", "user_id"): uuid.uuid4(),
    ("tenants", "access"): "key",
    ("tenants", "status"): "active",
}
"""Columns whose values a CHECK narrows."""


class Table(NamedTuple):
    name: str
    partition: bool
    secured: bool
    forced: bool
    owner: str
    policies: int
    tenant: str | None
    """The column that names a row's tenant."""


async def tables(connection: asyncpg.Connection) -> list[Table]:
    rows = await connection.fetch("""
        SELECT c.relname, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner),
               (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid),
               (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND NOT attisdropped
                  AND attname = CASE c.relname WHEN 'tenants' THEN 'id' ELSE 'tenant_id' END)
        FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'
        ORDER BY 1
    """)
    return [Table(*row) for row in rows]


async def reachable(connection: asyncpg.Connection) -> list[Table]:
    """Those that the platform reads at all: partitions are reached through their parents."""
    return [
        table
        for table in await tables(connection)
        if await connection.fetchval("SELECT has_table_privilege($1, $2::text, 'SELECT')", ROLE, table.name)
    ]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The owner's, whom row-level security binds as well."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def two_tenants(connection: asyncpg.Connection) -> asyncpg.Connection:
    """A row of each of two tenants, and of none, in every table."""
    found = await reachable(connection)
    foreign = await connection.fetch(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'f'"
    )
    for table, name in foreign:  # not the question here, and rows are easier to make without
        await connection.execute(f'ALTER TABLE "{table}" DROP CONSTRAINT IF EXISTS "{name}"')
    async with unbound(connection, found):
        for each in found:
            for tenant in (MINE, OTHERS, PLATFORM) if each.tenant else (None,):
                await insert(connection, each, tenant)
    return connection


@asynccontextmanager
async def unbound(connection: asyncpg.Connection, found: list[Table]) -> AsyncIterator[None]:
    """The owner, before whom nothing is hidden for a while."""
    for table in found:
        await connection.execute(f'ALTER TABLE "{table.name}" NO FORCE ROW LEVEL SECURITY')
    yield
    for table in found:
        await connection.execute(f'ALTER TABLE "{table.name}" FORCE ROW LEVEL SECURITY')


@asynccontextmanager
async def acting(connection: asyncpg.Connection, scope: str, tenant: uuid.UUID | None = None) -> AsyncIterator[None]:
    """What every transaction of the platform begins with; undone at its end."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(
            "SELECT set_config('role', $1, true), set_config('trunkline.scope', $2, true), "
            "set_config('trunkline.tenant', $3, true)",
            ROLE,
            scope,
            "" if tenant is None else tenant.hex,
        )
        yield
    finally:
        await transaction.rollback()


async def insert(connection: asyncpg.Connection, table: Table, tenant: uuid.UUID | None) -> None:
    columns = await connection.fetch(
        """SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
           WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
             AND (attnotnull AND NOT atthasdef OR attname = ANY($2))""",
        table.name,
        [column for name, column in CHECKED if name == table.name] + ([table.tenant] if table.tenant else []),
    )
    values = {
        name: tenant if name == table.tenant else CHECKED.get((table.name, name), example(kind))
        for name, kind in columns
    }
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    names = ", ".join(f'"{name}"' for name in values)
    await connection.execute(f'INSERT INTO "{table.name}" ({names}) VALUES ({places})', *values.values())


def example(kind: str) -> Any:
    """A value of a column's type, another one each time where that matters."""
    return {
        "uuid": uuid.uuid4(),
        "text": secrets.token_hex(8),
        "bytea": secrets.token_bytes(32),
        "timestamp with time zone": datetime.now(UTC),
        "date": date(2026, 1, 1),
        "boolean": True,
        "bigint": secrets.randbelow(10**9),
        "integer": secrets.randbelow(10**9),
        "double precision": 1.0,
        "jsonb": "{}",
        "text[]": [],
    }[kind]


async def test_every_table_forces_row_level_security(connection: asyncpg.Connection) -> None:
    found = await tables(connection)
    assert len(found) > 15
    assert [table.name for table in found if not (table.secured and table.forced and table.policies)] == []


async def test_every_table_belongs_to_tenants_or_is_known_not_to(connection: asyncpg.Connection) -> None:
    found = await reachable(connection)
    assert {table.name for table in found if table.tenant is None} == set(OF_NO_TENANT)
    own = await connection.fetch("SELECT polrelid::regclass::text FROM pg_policy WHERE polname LIKE 'of_tenant%'")
    assert {table.name for table in found if table.tenant} <= {name for (name,) in own}


async def test_the_role_owns_nothing_and_bypasses_nothing(connection: asyncpg.Connection) -> None:
    assert {table.owner for table in await tables(connection)}.isdisjoint({ROLE})
    role = await connection.fetchrow(
        "SELECT oid, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin AS more FROM pg_roles "
        "WHERE rolname = $1",
        ROLE,
    )
    assert role is not None
    assert role["more"] is False
    owned = "SELECT count(*) FROM pg_shdepend WHERE refobjid = $1 AND deptype = 'o'"
    assert await connection.fetchval(owned, role["oid"]) == 0
    assert await connection.fetchval("SELECT count(*) FROM pg_auth_members WHERE member = $1", role["oid"]) == 0


async def test_the_role_makes_nothing_and_reaches_no_partition(connection: asyncpg.Connection) -> None:
    assert not await connection.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", ROLE)
    partitions = [table.name for table in await tables(connection) if table.partition]
    assert partitions
    for name in partitions:
        for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
            granted = await connection.fetchval("SELECT has_table_privilege($1, $2::text, $3)", ROLE, name, privilege)
            assert not granted, (name, privilege)


async def test_functions_with_the_owners_rights_are_the_roles_alone(connection: asyncpg.Connection) -> None:
    functions = await connection.fetch(
        "SELECT oid::regprocedure::text AS name, proconfig, has_function_privilege('public', oid, 'EXECUTE') AS open "
        "FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
    )
    assert functions
    for function in functions:
        assert not function["open"], function["name"]
        # Whoever may make temporary tables must not shadow with them what a function of the owner looks at.
        assert "search_path=pg_catalog, public, pg_temp" in (function["proconfig"] or ()), function["name"]


@pytest.mark.parametrize("scope", ["", "tenant"])
async def test_without_a_tenant_every_table_raises(two_tenants: asyncpg.Connection, scope: str) -> None:
    for table in await reachable(two_tenants):
        async with acting(two_tenants, scope):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no tenant is set"):
                await two_tenants.fetch(f'SELECT * FROM "{table.name}"')


async def test_of_the_rows_of_two_tenants_each_sees_its_own(two_tenants: asyncpg.Connection) -> None:
    for table in await reachable(two_tenants):
        for tenant in (MINE, OTHERS):
            async with acting(two_tenants, "tenant", tenant):
                if table.tenant:
                    seen = await two_tenants.fetch(f'SELECT "{table.tenant}" FROM "{table.name}"')
                    assert [name for (name,) in seen] == [tenant], table.name
                else:
                    seen = await two_tenants.fetch(f'SELECT * FROM "{table.name}"')
                    assert bool(seen) is OF_NO_TENANT[table.name], table.name


async def test_nothing_is_written_for_another_tenant(two_tenants: asyncpg.Connection) -> None:
    for table in await reachable(two_tenants):
        if not table.tenant:
            continue
        async with acting(two_tenants, "tenant", MINE):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await insert(two_tenants, table, OTHERS)
        for statement in (
            f'UPDATE "{table.name}" SET "{table.tenant}" = $1',
            f'UPDATE "{table.name}" SET "{table.tenant}" = "{table.tenant}" WHERE "{table.tenant}" = $1',
            f'DELETE FROM "{table.name}" WHERE "{table.tenant}" = $1',
        ):
            async with acting(two_tenants, "tenant", MINE):
                changed = ""
                try:
                    changed = await two_tenants.execute(statement, OTHERS)
                except asyncpg.InsufficientPrivilegeError:
                    continue
                assert changed.endswith(" 0"), (table.name, statement)


async def test_a_user_is_seen_by_the_tenants_that_they_are_a_member_of(two_tenants: asyncpg.Connection) -> None:
    async with unbound(two_tenants, await reachable(two_tenants)):
        user = await two_tenants.fetchval("SELECT id FROM users")
        await two_tenants.execute("UPDATE memberships SET user_id = $1 WHERE tenant_id = $2", user, MINE)
    for tenant, number in ((MINE, 1), (OTHERS, 0)):
        async with acting(two_tenants, "tenant", tenant):
            assert await two_tenants.fetchval("SELECT count(*) FROM users") == number


@pytest.mark.parametrize("table", ["audit_events", "audit_checkpoints"])
async def test_what_the_audit_log_has_is_never_changed(two_tenants: asyncpg.Connection, table: str) -> None:
    assert table in {each.name for each in await reachable(two_tenants)}
    scopes: list[tuple[str, uuid.UUID | None]] = [("tenant", MINE), *((task, None) for task in get_args(Task))]
    for scope, tenant in scopes:
        for statement in (f"UPDATE {table} SET tenant_id = tenant_id", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            async with acting(two_tenants, scope, tenant):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                    await two_tenants.execute(statement)


def test_every_connection_to_postgres_is_made_in_one_module() -> None:
    package = Path(trunkline.__file__).parent
    makers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\b(create_async_engine|create_engine|asyncpg\.connect|async_sessionmaker)\(", path.read_text())
    }
    assert makers == {"db.py"}
