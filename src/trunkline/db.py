"""Postgres: the engine, the scope of a transaction, and the schema's way up and down."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, DateTime, MetaData, Uuid, make_url, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeDecorator

from trunkline.errors import StartRefused, TrunklineError, Unavailable

CONNECT_TIMEOUT = 5.0
"""Seconds that a connection may take: a caller waits for this when Postgres is away."""
STATEMENT_TIMEOUT = 30.0
"""Seconds that one statement may take; migrations have no such bound."""
LOOK_TIMEOUT = 5.0
"""Seconds for what a pod looks up and can do without for a while: Redis or its memory has most of it."""
CLOSE_TIMEOUT = 2.0
"""Seconds that the connections of a pool get to end in order; a Postgres that answers nothing lets none."""
MIGRATION_WAIT = 120.0
"""Seconds that `migrate` waits for another pod that is migrating."""
MIGRATION_LOCK = 0x7472756E6B  # "trunk"

_AWAY_CLASSES = ("08", "53", "57", "58", "55000", "25006")
"""SQLSTATE classes that blame the server: connection, resources, operator intervention, system error; and two states
of a server in maintenance: a database that takes no connections, and one that takes no writes."""
_REFUSED_LOGIN = ("28", "3D")
"""SQLSTATE classes that blame the URL: authorization, and a database that is not there."""

Result = TypeVar("Result")


class Base(DeclarativeBase):
    """All tables of the platform; one convention names their constraints, so that migrations can."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSONB}  # noqa: RUF012 SQLAlchemy's


class HexId(TypeDecorator[str]):
    """A `uuid` column that Python sees as 32 hex characters, the form it has in Redis and in URLs."""

    impl = Uuid
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> uuid.UUID | None:
        """Hex, with or without hyphens, to the column's type."""
        return None if value is None else uuid.UUID(value)

    def process_result_value(self, value: uuid.UUID | None, dialect: object) -> str | None:
        """The column's value as 32 hex characters."""
        return None if value is None else value.hex


class Database:
    """A pool of connections to one Postgres. Opens none until the first transaction."""

    def __init__(self, url: str, *, process: str = "trunkline", pool_size: int = 5) -> None:
        self._engine = _engine(url, process, pool_size=pool_size, max_overflow=2 * pool_size)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._looks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises:
            Unavailable: Postgres cannot be reached or went away; whether a commit that was under way took
                effect is then not known.
        """
        try:
            async with self._sessions() as session, session.begin():
                await session.connection()
                yield session
        except TrunklineError:
            raise
        except (OSError, SQLAlchemyError) as error:
            if (away := _away(error)) is not None:
                raise away from error
            raise

    async def look(self, read: Callable[[AsyncSession], Awaitable[Result]], seconds: float = LOOK_TIMEOUT) -> Result:
        """What `read` finds, in a transaction that nobody waits for longer than `seconds`, or than it likes.

        Giving up a connection to a Postgres that answers nothing takes seconds more; that goes on beside.

        Raises:
            Unavailable: Postgres is away, or does not answer in time.
        """
        task = asyncio.create_task(self._read(read))
        self._looks.add(task)
        task.add_done_callback(self._looked)
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                raise Unavailable("Postgres does not answer; try again later.", retry_after=2)
        finally:
            task.cancel()
        return await task

    async def _read(self, read: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        async with self.transaction() as session:
            return await read(session)

    def _looked(self, look: asyncio.Task[Any]) -> None:
        self._looks.discard(look)
        if not look.cancelled():
            look.exception()  # nobody may be waiting for it, and then it is no news

    async def ping(self) -> None:
        """Ask Postgres for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        await self.look(lambda session: session.execute(text("SELECT 1")))

    async def aclose(self) -> None:
        """Close the pool's connections; what does not end in time is left to the end of the process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.gather(*self._looks, return_exceptions=True)
                await self._engine.dispose()


def utcnow() -> datetime:
    """The time, aware of its zone, as `timestamptz` columns have it."""
    return datetime.now(UTC)


def migrate(database_url: str, revision: str = "head") -> None:
    """Bring the schema up to `revision`; harmless when it is there already.

    Pods may call this at the same moment: one migrates and the others wait, `MIGRATION_WAIT` seconds at most.
    It needs a session of its own: give it Postgres itself, not a pooler that shares sessions. Blocks, and
    starts an event loop: from a coroutine, call it in a thread.

    Raises:
        Unavailable: Postgres cannot be reached, or another pod migrates for too long.
        StartRefused: the URL is not one.
    """
    asyncio.run(_change_schema(database_url, lambda config: command.upgrade(config, revision)))


def downgrade(database_url: str, revision: str = "base") -> None:
    """Take the schema down to `revision`, with all data of what is removed; otherwise like `migrate`."""
    asyncio.run(_change_schema(database_url, lambda config: command.downgrade(config, revision)))


def check_schema(database_url: str) -> None:
    """Compare the tables that the code declares with those of the database.

    Raises:
        alembic.util.exc.AutogenerateDiffsDetected: they differ; the message lists how.
    """
    asyncio.run(_change_schema(database_url, command.check))


async def _change_schema(database_url: str, change: Callable[[Config], object]) -> None:
    engine = _engine(database_url, "trunkline migrate", poolclass=NullPool, command_timeout=None)
    try:
        async with engine.connect() as connection:
            await _lock_schema(connection)
            await connection.run_sync(_alembic, change)
            await connection.commit()
    except (OSError, SQLAlchemyError) as error:
        if (away := _away(error)) is not None:
            raise away from error
        raise
    finally:
        await engine.dispose()


async def _lock_schema(connection: AsyncConnection) -> None:
    """Hold the lock until this session ends, however it ends."""
    await connection.execute(text(f"SET lock_timeout = {round(MIGRATION_WAIT * 1000)}"))
    try:
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
    except DBAPIError as error:
        if _sqlstate(error) == "55P03":
            raise Unavailable(
                f"Another process has been migrating the database for {MIGRATION_WAIT:.0f} s; "
                "see what it waits for, then try again."
            ) from error
        raise
    await connection.execute(text("SET lock_timeout = DEFAULT"))
    await connection.commit()


def _alembic(connection: Connection, change: Callable[[Config], object]) -> None:
    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    change(config)


def _migrations() -> Path:
    """Where the migrations are: inside the package when it was installed, beside `src` in a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "_alembic", here.parents[2] / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise StartRefused("The migrations are missing from this installation; install trunkline again.")


def _engine(url: str, process: str, *, command_timeout: float | None = STATEMENT_TIMEOUT, **pool: Any) -> AsyncEngine:
    address, arguments = _asyncpg(url)
    arguments.setdefault("timeout", CONNECT_TIMEOUT)
    return create_async_engine(
        address,
        pool_pre_ping=True,
        **({} if "poolclass" in pool else {"pool_timeout": CONNECT_TIMEOUT}),
        **pool,
        connect_args=arguments
        | {
            "command_timeout": command_timeout,
            "server_settings": {"application_name": process},
            # Nothing is prepared for longer than one statement and no name is used twice: right behind a pooler
            # that hands sessions on, and across a migration that changes what a statement returns.
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"tl_{uuid.uuid4().hex}",
        },
    )


def _asyncpg(url: str) -> tuple[URL, dict[str, Any]]:
    """Split a libpq URL into SQLAlchemy's form and asyncpg's own arguments, which are called differently."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StartRefused(
            "TRUNKLINE_DATABASE_URL is not a URL; write postgresql://user:password@host/name."
        ) from error
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise StartRefused("TRUNKLINE_DATABASE_URL must begin with postgresql://.")
    arguments: dict[str, Any] = {}
    for name, value in parsed.query.items():
        if name == "sslmode":
            arguments["ssl"] = value
        elif name == "connect_timeout":
            arguments["timeout"] = float(str(value))
        elif name not in {"host", "port", "application_name"}:
            raise StartRefused(f"TRUNKLINE_DATABASE_URL has an unknown parameter: {name}.")
    query = {name: value for name, value in parsed.query.items() if name in {"host", "port"}}
    return parsed.set(drivername="postgresql+asyncpg", query=query), arguments


def _away(error: Exception) -> Unavailable | None:
    """What to tell when an error means that Postgres is away; None when it means something else."""
    if isinstance(error, OSError):
        return Unavailable("Postgres cannot be reached; try again later.", retry_after=2)
    if isinstance(error, PoolTimeout):
        return Unavailable("All connections to Postgres are busy; try again later.", retry_after=2)
    state = _sqlstate(error)
    if state.startswith(_REFUSED_LOGIN):
        return Unavailable("Postgres refused the login; check TRUNKLINE_DATABASE_URL.")
    if state == "42P01":
        return Unavailable("The database has no schema yet; run trunkline migrate.")
    if state.startswith(_AWAY_CLASSES) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Unavailable("Postgres went away or is not ready; try again later.", retry_after=2)
    return None


def _sqlstate(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "")
