"""Postgres: the engine, and transactions with their scope. Its schema goes up and down by `trunkline.schema`."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TypeVar

from sqlalchemy import URL, DateTime, MetaData, Row, Select, Uuid, make_url, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from trunkline.errors import NotStarted, StartRefused, TrunklineError, Unavailable

CONNECT_TIMEOUT = 5.0
"""Seconds that a connection may take: a caller waits for this when Postgres is away."""
STATEMENT_TIMEOUT = 30.0
"""Seconds that one statement may take; migrations have no such bound."""
LOOK_TIMEOUT = 5.0
"""Seconds for what a pod looks up and can do without for a while: Redis or its memory has most of it."""
CLOSE_TIMEOUT = 2.0
"""Seconds that the connections of a pool get to end in order; a Postgres that answers nothing lets none."""

_AWAY_CLASSES = ("08", "53", "57", "58", "55000", "25006")
"""SQLSTATE classes that blame the server: connection, resources, operator intervention, system error; and two states
of a server in maintenance: a database that takes no connections, and one that takes no writes."""
_NO_ROLE = ("22023", "42501")
"""SQLSTATEs of a role that is not there, and of one that this login may not act as."""
_REFUSED_LOGIN = ("28", "3D")
"""SQLSTATE classes that blame the URL: authorization, and a database that is not there."""

Result = TypeVar("Result")

Task = Literal["directory", "verify", "account", "signup", "audit", "operator", "catalog", "upkeep"]
"""What the platform does for itself, each with its own policies (alembic/versions, `trunkline.migrations_sql`):
finding a tenant by name, verifying keys, people's accounts, signing up, the audit log's writers, operators, the
catalog of toolsets, and clearing away what is old."""


class Scope(NamedTuple):
    """On whose behalf a transaction runs: a tenant's, or one of the platform's own tasks."""

    tenant: str = ""
    task: Task | None = None


def tenant_scope(tenant_id: str) -> Scope:
    """The scope of one tenant: nothing of any other is seen or written in it.

    Raises:
        ValueError: the id is empty.
    """
    if not tenant_id:
        raise ValueError("the scope of a tenant needs the tenant")
    return Scope(tenant=tenant_id)


def task_scope(task: Task) -> Scope:
    """The scope of a task of the platform."""
    return Scope(task=task)


_ENTER: Final = text("""
    SELECT set_config('role', 'trunkline_app', true), set_config('trunkline.scope', :scope, true),
           set_config('trunkline.tenant', :tenant, true)
""")
_ACT_FOR: Final = text("""
    SELECT set_config('trunkline.scope', 'tenant', true), set_config('trunkline.tenant', :tenant, true)
""")


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
        self._engine = make_engine(url, process, pool_size=pool_size, max_overflow=2 * pool_size)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._looks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def transaction(self, scope: Scope, **options: Any) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises.

        It acts as a role that owns nothing and sees what the policies of `scope` show, until its end and no longer:
        right behind a pooler that hands connections on with each transaction, too. `options` are SQLAlchemy's of a
        connection.

        Raises:
            Unavailable: Postgres cannot be reached or went away (whether a commit that was under way took effect is
                then not known), or its schema is older than this.
        """
        try:
            async with self._sessions() as session, session.begin():
                await session.connection(execution_options=options or None)
                await _enter(session, scope)
                yield session
        except TrunklineError:
            raise
        except (OSError, SQLAlchemyError) as error:
            if (away := find_outage(error)) is not None:
                raise away from error
            raise

    async def stream(
        self, scope: Scope, statement: Select[Any], *, batch: int = 1000
    ) -> AsyncIterator[Sequence[Row[Any]]]:
        """Rows, `batch` in memory at once, through a server-side cursor in one repeatable-read transaction.

        Close it (`contextlib.aclosing`) where it may not be read to its end: it holds a connection.

        Raises:
            Unavailable: as from `transaction`, at any batch.
        """
        async with self.transaction(scope, isolation_level="REPEATABLE READ") as session:
            found = await session.stream(statement, execution_options={"yield_per": batch})
            async for rows in found.partitions(batch):
                yield rows

    async def look(
        self,
        read: Callable[[AsyncSession], Awaitable[Result]],
        seconds: float = LOOK_TIMEOUT,
        *,
        scope: Scope,
    ) -> Result:
        """What `read` finds, in a transaction that nobody waits for longer than `seconds`, or than it likes.

        Giving up a connection to a Postgres that answers nothing takes seconds more; that goes on beside.

        Raises:
            Unavailable: Postgres is away, or does not answer in time.
        """
        return await self._wait_for(self._read(read, scope), seconds)

    async def _wait_for(self, work: Coroutine[Any, Any, Result], seconds: float) -> Result:
        task = asyncio.create_task(work)
        self._looks.add(task)
        task.add_done_callback(self._looked)
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                raise Unavailable("Postgres does not answer; try again later.", retry_after=2)
        finally:
            task.cancel()
        return await task

    async def _read(self, read: Callable[[AsyncSession], Awaitable[Result]], scope: Scope) -> Result:
        async with self.transaction(scope) as session:
            return await read(session)

    async def _ping(self) -> None:
        try:
            async with self._engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (OSError, SQLAlchemyError) as error:
            odd = Unavailable("Postgres answers with an error of its own; look at its log.", retry_after=2)
            raise (find_outage(error) or odd) from error

    def _looked(self, look: asyncio.Task[Any]) -> None:
        self._looks.discard(look)
        if not look.cancelled():
            look.exception()  # nobody may be waiting for it, and then it is no news

    async def ping(self) -> None:
        """Ask Postgres for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        await self._wait_for(self._ping(), LOOK_TIMEOUT)

    async def aclose(self) -> None:
        """Close the pool's connections; what does not end in time is left to the end of the process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.gather(*self._looks, return_exceptions=True)
                await self._engine.dispose()


async def _enter(session: AsyncSession, scope: Scope) -> None:
    if bool(scope.tenant) == bool(scope.task):
        raise ValueError("a transaction runs for one tenant or for one task")
    try:
        await session.execute(_ENTER, {"scope": scope.task or "tenant", "tenant": scope.tenant})
    except DBAPIError as error:
        if sqlstate(error) in _NO_ROLE:
            raise Unavailable(
                "The database has no schema yet, or the login may not act as trunkline_app; run trunkline migrate."
            ) from error
        raise
    session.info["scope"] = scope


async def act_for(session: AsyncSession, tenant_id: str) -> None:
    """From here on this transaction is the tenant's alone. From a task to a tenant, never back.

    Raises:
        ValueError: it is another tenant's already.
    """
    scope: Scope = session.info["scope"]
    if scope.tenant and scope.tenant != tenant_id:
        raise ValueError("a transaction of one tenant cannot become another's")
    session.info["scope"] = tenant_scope(tenant_id)
    await session.flush()  # what waits was written for the task
    await session.execute(_ACT_FOR, {"tenant": tenant_id})


def utcnow() -> datetime:
    """The time, aware of its zone, as `timestamptz` columns have it."""
    return datetime.now(UTC)


def make_engine(
    url: str, process: str, *, command_timeout: float | None = STATEMENT_TIMEOUT, **pool: Any
) -> AsyncEngine:
    """An engine with what all of ours have in common; `pool` are SQLAlchemy's options.

    Raises:
        StartRefused: the URL is not one.
    """
    address, arguments = _asyncpg(url)
    arguments.setdefault("timeout", CONNECT_TIMEOUT)
    return create_async_engine(
        address,
        pool_pre_ping=True,
        hide_parameters=True,  # of errors, which are logged: values may be hashes of passwords, digests, addresses
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


def find_outage(error: Exception) -> Unavailable | None:
    """What to tell when an error means that Postgres is away; None when it means something else."""
    if isinstance(error, OSError):
        return Unavailable("Postgres cannot be reached; try again later.", retry_after=2)
    if isinstance(error, PoolTimeout):
        return NotStarted("All connections to Postgres are busy; try again later.", retry_after=2)
    state = sqlstate(error)
    if state.startswith(_REFUSED_LOGIN):
        return Unavailable("Postgres refused the login; check TRUNKLINE_DATABASE_URL.")
    if state == "42P01":
        return Unavailable("The database has no schema yet; run trunkline migrate.")
    if state.startswith(_AWAY_CLASSES) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Unavailable("Postgres went away or is not ready; try again later.", retry_after=2)
    return None


def sqlstate(error: Exception) -> str:
    """The SQLSTATE that an error carries; empty where there is none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "")
