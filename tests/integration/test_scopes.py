"""Row-level security as the code meets it: what a transaction sees is what its scope shows."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from tests.stores import as_owner

from trunkline.audit.by import CLI
from trunkline.audit.models import AuditEvent
from trunkline.audit.record import Recorder
from trunkline.db import Database, Scope, act_for, sqlstate, task_scope, tenant_scope
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants

TABLES = ("tenants", "tenant_toolsets", "api_keys")


@pytest.fixture
async def tenants(settings: Settings, database: Database) -> AsyncIterator[list[str]]:
    """The ids of two tenants, each with a toolset and a key."""
    redis = await Redis.connect(settings, "test")
    made, keys = Tenants(settings, database, redis), Keys(settings, database, redis)
    ids = []
    for slug in ("acme", "other"):
        ids.append((await made.create(slug)).id)
        await made.enable(slug, "demo")
        await keys.issue(slug)
    yield ids
    await redis.aclose()


async def test_a_transaction_without_a_scope_cannot_begin(database: Database) -> None:
    for scope in (Scope(), Scope("a", "verify")):
        with pytest.raises(ValueError, match="one tenant or for one task"):
            async with database.transaction(scope):
                pass
    with pytest.raises(ValueError, match="needs the tenant"):
        tenant_scope("")


@pytest.mark.parametrize("table", [*TABLES, "signing_keys", "audit_events"])
async def test_without_a_scope_every_read_and_write_raises(
    table: str, database: Database, tenants: list[str]
) -> None:
    async def read(statement: str) -> None:
        async with database.transaction(tenant_scope(tenants[0])) as session:
            await session.execute(text("SELECT set_config('trunkline.scope', '', true)"))
            await session.execute(text(statement))

    for statement in (f"SELECT * FROM {table}", f"SELECT count(*) FROM {table}"):
        with pytest.raises(DBAPIError, match="no tenant is set") as caught:
            await read(statement)
        assert sqlstate(caught.value) == "42501"


@pytest.mark.parametrize("table", TABLES)
async def test_a_tenant_sees_its_own_rows_alone(table: str, database: Database, tenants: list[str]) -> None:
    column = "id" if table == "tenants" else "tenant_id"
    for tenant in tenants:
        async with database.transaction(tenant_scope(tenant)) as session:
            rows = await session.scalars(text(f"SELECT {column} FROM {table}"))
            assert {row.hex for row in rows} == {tenant}


async def test_a_tenant_changes_nothing_of_another(
    settings: Settings, database: Database, tenants: list[str]
) -> None:
    mine, other = tenants
    async with database.transaction(tenant_scope(mine)) as session:
        for statement in (
            "UPDATE tenants SET name = 'x' WHERE id = :other",
            "DELETE FROM tenants WHERE id = :other",
            "DELETE FROM tenant_toolsets WHERE tenant_id = :other",
            "UPDATE api_keys SET revoked_at = now() WHERE tenant_id = :other",
        ):
            assert (await session.execute(text(statement), {"other": other})).rowcount == 0
    for statement in (
        "INSERT INTO tenant_toolsets (tenant_id, name, position, enabled) VALUES (:other, 'x', 9, true)",
        "UPDATE tenant_toolsets SET tenant_id = :other, position = 9",
    ):
        with pytest.raises(DBAPIError, match="row-level security"):
            async with database.transaction(tenant_scope(mine)) as session:
                await session.execute(text(statement), {"other": other})
    rows = await as_owner(settings.database_url, "SELECT name FROM tenants")
    assert sorted(row["name"] for row in rows) == ["acme", "other"]


async def test_passwords_and_sign_ins_are_seen_by_no_tenant(database: Database, tenants: list[str]) -> None:
    async with database.transaction(task_scope("account")) as session:
        await session.execute(
            text("INSERT INTO users (id, email, name) VALUES (gen_random_uuid(), 'ada@example.com', 'Ada')")
        )
        await session.execute(text("INSERT INTO passwords (user_id, hash) SELECT id, 'x' FROM users"))
    async with database.transaction(tenant_scope(tenants[0])) as session:
        for table in ("passwords", "password_resets", "sign_ins", "users", "operators", "signup_codes"):
            assert await session.scalar(text(f"SELECT count(*) FROM {table}")) == 0


async def test_a_task_sees_no_more_than_it_is_for(database: Database, tenants: list[str]) -> None:
    async with database.transaction(task_scope("verify")) as session:
        assert await session.scalar(text("SELECT count(*) FROM api_keys")) == len(tenants)
        assert await session.scalar(text("SELECT count(*) FROM tenant_toolsets")) == 0
        assert (await session.execute(text("DELETE FROM tenants"))).rowcount == 0
    async with database.transaction(task_scope("catalog")) as session:
        assert await session.scalar(text("SELECT count(*) FROM tenants")) == 0


async def test_nothing_in_a_transaction_may_own_or_delete_what_is_only_added_to(database: Database) -> None:
    for statement in (
        "DELETE FROM audit_events",
        "UPDATE audit_events SET outcome = 'ok'",
        "TRUNCATE audit_events",
        "ALTER TABLE tenants DISABLE ROW LEVEL SECURITY",
        "DROP POLICY of_tenant ON tenants",
        "CREATE TABLE mine (id int)",
        "SELECT * FROM audit_events_default",
    ):
        with pytest.raises(DBAPIError) as caught:
            async with database.transaction(task_scope("audit")) as session:
                await session.execute(text(statement))
        assert sqlstate(caught.value) == "42501", statement


async def test_the_scope_ends_with_the_transaction(settings: Settings, tenants: list[str]) -> None:
    alone = Database(settings.database_url, pool_size=1)
    async with alone.transaction(tenant_scope(tenants[0])) as session:
        first = await session.scalar(text("SELECT pg_backend_pid()"))
    async with alone._engine.connect() as connection:
        row = (
            await connection.execute(
                text("SELECT pg_backend_pid(), current_user, current_setting('trunkline.scope', true)")
            )
        ).one()
    assert (row[0], row[1] != "trunkline_app", row[2]) == (first, True, "")
    await alone.aclose()


async def test_a_transaction_goes_from_a_task_to_one_tenant_and_to_no_other(
    database: Database, tenants: list[str]
) -> None:
    async with database.transaction(task_scope("directory")) as session:
        assert await session.scalar(text("SELECT count(*) FROM tenants")) == len(tenants)
        await act_for(session, tenants[0])
        await act_for(session, tenants[0])
        assert await session.scalar(text("SELECT count(*) FROM tenants")) == 1
        with pytest.raises(ValueError, match="cannot become another's"):
            await act_for(session, tenants[1])


async def test_rows_are_streamed_in_batches_from_one_view_of_the_data(database: Database, tenants: list[str]) -> None:
    recorder = Recorder(SecretStr("a root of at least thirty-two characters"))
    async with database.transaction(tenant_scope(tenants[0])) as session:
        for number in range(25):
            await recorder.record(session, tenants[0], "test.event", by=CLI, target=str(number))
    query = select(AuditEvent.target).where(AuditEvent.action == "test.event").order_by(AuditEvent.id)
    sizes, seen = [], []
    async with contextlib.aclosing(database.stream(tenant_scope(tenants[0]), query, batch=10)) as batches:
        async for batch in batches:
            sizes.append(len(batch))
            seen += [row.target for row in batch]
    assert sizes == [10, 10, 5]
    assert len(seen) == 25
    async with contextlib.aclosing(database.stream(tenant_scope(tenants[1]), query)) as batches:
        assert [batch async for batch in batches] == []


async def test_a_role_that_is_not_there_gives_a_sentence_that_says_what_to_run(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = text("SELECT set_config('role', 'no_such_role', true), :scope, :tenant")
    monkeypatch.setattr("trunkline.db._ENTER", without)
    with pytest.raises(Unavailable, match="run trunkline migrate"):
        async with database.transaction(task_scope("verify")):
            pass


async def test_an_event_with_a_fraction_is_refused(database: Database, tenants: list[str]) -> None:
    recorder = Recorder(SecretStr("a root of at least thirty-two characters"))
    async with database.transaction(tenant_scope(tenants[0])) as session:
        with pytest.raises(ValueError, match="no fractions"):
            await recorder.record(session, tenants[0], "x", by=CLI, detail={"deep": [{"rate": 0.5}]})


async def test_an_error_does_not_repeat_the_values_of_its_statement(database: Database) -> None:
    with pytest.raises(DBAPIError) as failed:
        async with database.transaction(task_scope("account")) as session:
            await session.execute(text("SELECT CAST(:value AS integer) / 0"), {"value": 271_828_182})
    assert "271828182" not in str(failed.value)
