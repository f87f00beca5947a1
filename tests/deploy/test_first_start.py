"""What the first `docker compose up` makes: secrets at random, once, each for its reader alone."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from tests.deploy.first_start import FIRST_START, SCRIPT

from trunkline.schema import migrate

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="handing files over to other users takes root")


def start(directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, directory], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout + done.stderr


def files(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@as_root
def test_each_reader_gets_its_files_and_nobody_else_may_read_them(tmp_path: Path) -> None:
    start(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"made", *FIRST_START["USERS"]}
    for path in tmp_path.rglob("*"):
        found = path.stat()
        service = path.relative_to(tmp_path).parts[0]
        assert stat.S_IMODE(found.st_mode) & 0o277 == 0 or service == "made"
        assert stat.S_IMODE(found.st_mode) & 0o077 == 0
        assert found.st_uid == found.st_gid == FIRST_START["USERS"].get(service, 0)


@as_root
def test_secrets_are_made_once_and_are_all_different(tmp_path: Path) -> None:
    start(tmp_path)
    first = files(tmp_path)
    made = [text for name, text in first.items() if name.startswith("made/")]
    assert len(set(made)) == len(made) == len(FIRST_START["MADE"])
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in made)
    assert start(tmp_path) == "Secrets are in place for trunkline, migrate, postgres, redis, prometheus, grafana.\n"
    assert files(tmp_path) == first


@as_root
def test_what_a_first_start_left_undone_the_next_one_does_with_the_same_secrets(tmp_path: Path) -> None:
    start(tmp_path)
    first = files(tmp_path)
    (tmp_path / "redis" / "redis.conf").unlink()
    (tmp_path / "made" / "grafana").unlink()
    start(tmp_path)
    second = files(tmp_path)
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"made/grafana", "grafana/password"}


@as_root
def test_two_first_starts_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(start, [tmp_path, tmp_path]))
    found = files(tmp_path)
    assert found["postgres/password"] == found["made/owner"]
    assert found["made/owner"] in found["migrate/TRUNKLINE_MIGRATION_DATABASE_URL"]
    assert not [name for name in found if "/." in name]


def test_wrong_usage_is_said() -> None:
    done = subprocess.run([sys.executable, "-I", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Usage" in done.stderr


async def test_the_login_that_is_made_may_act_for_the_platform_and_owns_nothing(database_url: str) -> None:
    """`login.sql`, as the image of Postgres runs it at its first start, then `trunkline migrate`."""
    name, login = database_url.rpartition("/")[2], f"pods_{uuid4().hex[:12]}"
    sql = FIRST_START["files_of"](dict.fromkeys(FIRST_START["MADE"], "0123456789abcdef"))["postgres"]["login.sql"]
    sql = sql.replace("DATABASE trunkline", f'DATABASE "{name}"').replace("trunkline_pods", login)
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(sql)
        address = database_url.partition("@")[2]
        await asyncio.to_thread(migrate, database_url, used_by=f"postgresql://{login}:0123456789abcdef@{address}")
        may = await connection.fetchrow(
            "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, has_database_privilege(oid, $2, 'CONNECT'),"
            " has_database_privilege('trunkline_app', $2, 'CONNECT') FROM pg_roles WHERE rolname = $1",
            login,
            name,
        )
        assert tuple(may) == (True, False, False, False, True, False)
        acts = await connection.fetchval("SELECT pg_has_role($1, 'trunkline_app', 'MEMBER')", login)
        assert acts
        await connection.execute(f"GRANT {login} TO CURRENT_USER; SET ROLE {login}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM tenants")
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tableowner = current_user") == 0
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {login}; DROP ROLE {login}")
        await connection.close()
