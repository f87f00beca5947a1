"""The stores that tests run on, started once a run: from wheels, in containers, or wherever the given URLs point."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import asyncpg
import pytest

from trunkline.dev.data import DataDirectory
from trunkline.dev.stores import running_stores

POSTGRES_IMAGE = "postgres:18-alpine"
REDIS_IMAGE = "valkey/valkey:9-alpine"
ROOM = 4 * 1024**3
"""Bytes that a run's stores may take, by far."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class TestStores:
    """Postgres and Redis shared by all tests of a run; each test has its own database and Redis prefix in them."""

    __test__ = False

    database_url: str
    redis_url: str
    run: str
    """Distinguishes this run's databases from those of others on the same server."""

    @property
    def template(self) -> str:
        return f"test_{self.run}_template"

    def database(self, name: str) -> str:
        """The URL of a database on the same server."""
        return self.database_url.rsplit("/", 1)[0] + f"/{name}"

    def make_template(self) -> None:
        """Migrate an empty database once a run, whichever worker comes first; the others wait for it."""
        from trunkline.schema import migrate  # slow, and unit tests need none of it

        async def make(admin: asyncpg.Connection) -> None:
            await admin.execute("SELECT pg_advisory_lock(7219)")
            if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", self.template):
                scratch = f"{self.template}_new"
                await admin.execute(f'CREATE DATABASE "{scratch}"')
                await in_thread(migrate, self.database(scratch))
                await admin.execute(f'ALTER DATABASE "{scratch}" RENAME TO "{self.template}"')

        self._administer(make)

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[str]:
        """A migrated database of one's own, by its URL."""
        name = f"test_{self.run}_{uuid.uuid4().hex[:12]}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"')
        try:
            yield self.database(name)
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def drop_template(self) -> None:
        self._execute(f'DROP DATABASE IF EXISTS "{self.template}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        self._administer(lambda admin: admin.execute(statement))

    def _administer(self, work: Callable[[asyncpg.Connection], Awaitable[object]]) -> None:
        async def connect_and_work() -> None:
            admin = await asyncpg.connect(self.database_url)
            try:
                await work(admin)
            finally:
                await admin.close()

        # In a thread: the test's own event loop may be set, and must stay so.
        with ThreadPoolExecutor(1) as threads:
            threads.submit(asyncio.run, connect_and_work()).result(60)


async def in_thread(function: Callable[[str], Result], argument: str) -> Result:
    return await asyncio.to_thread(function, argument)


async def as_owner(
    database_url: str, statement: str, *arguments: object, task: str = "operator"
) -> list[asyncpg.Record]:
    """What a statement returns that the owner of the tables runs, who sees what policies show that task."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"SET trunkline.scope = '{task}'")
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


@contextlib.contextmanager
def stores_of_this_run(config: pytest.Config) -> Iterator[TestStores]:
    """The stores that the options ask for, until the end of the block; start them from the main thread."""
    database_url = str(config.getoption("--database-url"))
    redis_url = str(config.getoption("--redis-url"))
    with contextlib.ExitStack() as stack:
        if config.getoption("--stores") == "containers":
            database_url = database_url or stack.enter_context(_postgres_container())
            redis_url = redis_url or stack.enter_context(_redis_container())
        data = DataDirectory(stack.enter_context(open_directory(_memory())))
        stack.enter_context(data.locked())
        stores = stack.enter_context(
            running_stores(data, database_url=database_url, redis_url=redis_url, durable=False)
        )
        found = TestStores(stores.database_url, stores.redis_url, uuid.uuid4().hex[:8])
        yield found
        if not stores.embedded:
            found.drop_template()


@contextlib.contextmanager
def open_directory(within: Path | None = None) -> Iterator[Path]:
    """An empty directory that every user may pass through: where we are root, the stores run as another user."""
    directory = Path(tempfile.mkdtemp(prefix="tl-", dir=within))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _memory() -> Path | None:
    """A file system in memory with room for a run's stores, where this machine has one.

    Disks are slow at what tests do all the time, which is making and dropping databases of hundreds of files each.
    """
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM else None


@contextlib.contextmanager
def _postgres_container() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    account = {"username": "trunkline", "password": "trunkline", "dbname": "trunkline"}
    with PostgresContainer(POSTGRES_IMAGE, driver=None, **account) as container:
        yield container.get_connection_url()


@contextlib.contextmanager
def _redis_container() -> Iterator[str]:
    from testcontainers.community.redis import RedisContainer

    with RedisContainer(REDIS_IMAGE) as container:
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


def need_docker() -> None:
    """Refuse the run in one sentence where no Docker engine answers."""
    import docker
    from docker.errors import DockerException

    try:
        docker.from_env().close()
    except DockerException as error:
        raise pytest.UsageError(
            "--stores containers needs a running Docker engine, and none answers; start one, or leave the option out "
            "to take the stores from wheels."
        ) from error
