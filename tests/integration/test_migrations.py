from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.stores import as_owner

from trunkline.audit.models import AuditEvent, ensure_partitions
from trunkline.db import Database, task_scope
from trunkline.errors import StartRefused, Unavailable
from trunkline.schema import MIGRATION_LOCK, check_schema, downgrade, migrate

TABLES = {"tenants", "tenant_toolsets", "api_keys", "signing_keys", "audit_events", "audit_events_default"} | {
    "audit_unchained", "audit_unchained_default", "audit_heads", "audit_checkpoints", "usage_daily"
}  # fmt: skip
KILL = "SELECT pg_terminate_backend($1, 5000)"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def empty_database(database_url: str) -> str:
    """The test's own database, without a schema."""
    downgrade(database_url)
    return database_url


def tables(database_url: str) -> set[str]:
    async def ask() -> set[str]:
        database = Database(database_url)
        async with database.transaction(task_scope("audit")) as session:
            names = await session.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
            found = {name for (name,) in names}
        await database.aclose()
        return found

    return asyncio.run(ask())


def test_the_schema_goes_up_and_down_and_up_again(empty_database: str) -> None:
    assert tables(empty_database) <= {"alembic_version"}
    migrate(empty_database)
    assert tables(empty_database) >= TABLES
    downgrade(empty_database)
    assert tables(empty_database) == {"alembic_version"}
    migrate(empty_database)
    assert tables(empty_database) >= TABLES


def test_migrating_twice_changes_nothing(empty_database: str) -> None:
    migrate(empty_database)
    before = tables(empty_database)
    migrate(empty_database)
    assert tables(empty_database) == before


def test_the_models_match_the_migrations(empty_database: str) -> None:
    migrate(empty_database)
    check_schema(empty_database)


def test_four_processes_migrate_at_once(empty_database: str) -> None:
    program = "import sys; from trunkline.schema import migrate; migrate(sys.argv[1])"
    command = [sys.executable, "-c", program, empty_database]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    check_schema(empty_database)


def test_a_migration_waits_for_another_one_only_so_long(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.schema.MIGRATION_WAIT", 0.2)

    async def hold_the_lock() -> None:
        engine = create_async_engine(empty_database.replace("postgresql:", "postgresql+asyncpg:", 1))
        async with engine.connect() as connection:
            await connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            with pytest.raises(Unavailable, match="Another process has been migrating"):
                await asyncio.to_thread(migrate, empty_database)
        await engine.dispose()

    asyncio.run(hold_the_lock())


def test_an_unreachable_database_gives_one_sentence() -> None:
    with pytest.raises(Unavailable, match=r"^Postgres cannot be reached; try again later\.$"):
        migrate(NOWHERE)


async def test_a_transaction_on_an_unreachable_database_gives_one_sentence() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await Database(NOWHERE).ping()


async def test_a_database_that_does_not_exist_is_said_to_be_a_matter_of_the_url(database_url: str) -> None:
    wrong = re.sub(r"/[^/?]+(\?|$)", r"/no_such_database\1", database_url, count=1)
    database = Database(wrong if wrong != database_url else database_url + "x")
    with pytest.raises(Unavailable, match="TRUNKLINE_DATABASE_URL"):
        await database.ping()
    await database.aclose()


async def test_a_sign_of_life_that_is_an_error_is_none(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(database_url)
    monkeypatch.setattr("trunkline.db.text", lambda _: text("SELECT 1 / 0"))
    with pytest.raises(Unavailable, match="look at its log"):
        await database.ping()
    await database.aclose()


@pytest.mark.parametrize("url", ["", "mysql://host/name", "postgresql://host/name?surprise=1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StartRefused, match="TRUNKLINE_DATABASE_URL"):
        Database(url)


async def test_a_failed_block_leaves_nothing_behind(database_url: str) -> None:
    database = Database(database_url)

    async def fail_after_writing() -> None:
        async with database.transaction(task_scope("audit")) as session:
            session.add(_event(datetime.now(UTC)))
            await session.flush()
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail_after_writing()
    async with database.transaction(task_scope("audit")) as session:
        assert await session.scalar(text("SELECT count(*) FROM audit_events")) == 0
    await database.aclose()


async def test_a_connection_that_is_cut_gives_one_sentence_and_the_next_transaction_works(database_url: str) -> None:
    database = Database(database_url)

    async def be_cut() -> None:
        async with database.transaction(task_scope("audit")) as session:
            mine = await session.scalar(text("SELECT pg_backend_pid()"))
            await as_owner(database_url, KILL, mine)
            await session.execute(text("SELECT 1"))

    with pytest.raises(Unavailable, match="went away"):
        await be_cut()
    await database.ping()
    await database.aclose()


async def test_idle_connections_that_were_cut_are_replaced_unnoticed(database_url: str) -> None:
    database = Database(database_url)
    async with database.transaction(task_scope("audit")) as session:
        mine = await session.scalar(text("SELECT pg_backend_pid()"))
    await as_owner(database_url, KILL, mine)
    await database.ping()
    await database.aclose()


async def test_a_new_partition_takes_in_what_the_default_one_caught(database_url: str) -> None:
    database = Database(database_url)
    async with database.transaction(task_scope("audit")) as session:
        late = datetime.now(UTC).replace(day=1) + timedelta(days=5 * 31)
        session.add_all([_event(datetime.now(UTC)), _event(late)])
    assert await _homes(database) == {f"audit_events_{datetime.now(UTC):%Y_%m}", "audit_events_default"}
    async with database.transaction(task_scope("audit")) as session:
        await ensure_partitions(session, months_ahead=6)
    assert await _homes(database) == {f"audit_events_{datetime.now(UTC):%Y_%m}", f"audit_events_{late:%Y_%m}"}
    await database.aclose()
    await asyncio.to_thread(check_schema, database_url)


async def test_partitions_are_made_once_by_processes_that_race(database_url: str) -> None:
    async def extend() -> None:
        async with database.transaction(task_scope("audit")) as session:
            await ensure_partitions(session, months_ahead=12)

    database = Database(database_url)
    await asyncio.gather(*(extend() for _ in range(4)))
    async with database.transaction(task_scope("audit")) as session:
        partitions = text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_events'::regclass")
        assert await session.scalar(partitions) == 14
    await database.aclose()


async def _homes(database: Database) -> set[str]:
    async with database.transaction(task_scope("audit")) as session:
        rows = await session.execute(text("SELECT tableoid::regclass::text FROM audit_events"))
        return {name for (name,) in rows}


def _event(at: datetime) -> AuditEvent:
    number = int(at.timestamp() * 1000)
    return AuditEvent(
        recorded_at=at,
        tenant_id="0" * 32,
        seq=number,
        hash=b"",
        id=f"{number:032x}",
        occurred_at=at,
        actor_kind="public",
        action="tools/call",
        outcome="ok",
    )


@pytest.mark.parametrize("inherits", ["NOINHERIT", "INHERIT"])
async def test_migrating_as_the_owner_lets_the_login_of_the_pods_act_for_the_platform(
    database_url: str, inherits: str
) -> None:
    """It acts for the platform where it says so, and by itself may nothing: before Postgres 16, if it was made so."""
    login = f"pods_{uuid4().hex[:12]}"
    await as_owner(database_url, f"CREATE ROLE {login} NOLOGIN {inherits}")
    (version,) = (await as_owner(database_url, "SELECT current_setting('server_version_num')::int"))[0]
    try:
        address = database_url.partition("@")[2]
        await asyncio.to_thread(migrate, database_url, used_by=f"postgresql://{login}:secret@{address}")
        member = "SELECT pg_has_role($1, 'trunkline_app', 'MEMBER'), pg_has_role($1, 'trunkline_app', 'USAGE')"
        (row,) = await as_owner(database_url, member, login)
        assert tuple(row) == (True, inherits == "INHERIT" and version < 160_000)
    finally:
        await as_owner(database_url, f"DROP ROLE {login}")


async def test_an_owner_that_may_make_no_roles_is_told_what_an_administrator_has_to_run(database_url: str) -> None:
    weak, absent = f"weak_{uuid4().hex[:12]}", f"absent_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"CREATE ROLE {weak} NOLOGIN")
        await connection.execute(f"GRANT {weak} TO CURRENT_USER; SET ROLE {weak}")
        make = import_module_at(Path("alembic/versions/0002_accounts_and_isolation.py")).MAKE_ROLE
        with pytest.raises(
            asyncpg.PostgresError, match=f"run: CREATE ROLE {absent} NOLOGIN; GRANT {absent} TO {weak};"
        ):
            await connection.execute(make.replace("trunkline_app", absent))
    finally:
        await connection.execute(f"RESET ROLE; DROP ROLE {weak}")
        await connection.close()


def import_module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("migration", Path(__file__).resolve().parents[2] / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
