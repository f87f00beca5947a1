"""An embedded Postgres: one cluster on 127.0.0.1, one role `trunkline`, one database `trunkline` that it owns.

The role is no superuser, as in production: it may create databases and roles, and row-level security holds it. The
superuser has no way in. There are no Unix sockets, and so none with a path too long (107 bytes) or open to others.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from trunkline.dev.account import Account
from trunkline.dev.process import end, end_leftover, spawn
from trunkline.dev.programs import Program
from trunkline.errors import StartRefused

ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
"""Nothing of ours: PGDATA, PGPORT and the like would change what runs."""

_ACCESS = "host all trunkline 127.0.0.1/32 scram-sha-256\n"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}
"""For tests: a power cut may take the data, a crash of the process does not. Their databases do not live to be
vacuumed, and one that is being vacuumed cannot be dropped by its owner."""


class Postgres:
    """One server process on one data directory."""

    def __init__(self, program: Program, home: Path, account: Account, log: Path, *, durable: bool) -> None:
        self.program = program
        self.home = home
        self.log = log
        self._account = account
        self._durable = durable
        self._port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def title(self) -> str:
        """What it is, for people."""
        return "Postgres {}.{}".format(*self.program.version)

    def prepare(self, password: str) -> None:
        """Make the cluster where there is none, whole or not at all, and stop whatever was left running on it.

        Raises:
            StartRefused: initdb or the first commands failed; the sentence has their own.
        """
        if self.home.exists():
            end_leftover(self.home / "postmaster.pid", str(self.home), signal.SIGINT)
            return
        fresh = self.home.with_name(f"{self.home.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._account.own(fresh)
        initdb = self.program.path.with_name("initdb")
        options = ("--username=postgres", "--auth=reject", "--encoding=UTF8", "--locale=C", "--no-sync")
        self._run([initdb, "--pgdata", fresh, *options, "--no-instructions"], "")
        (fresh / "pg_hba.conf").write_text(_ACCESS)
        role = f"CREATE ROLE trunkline LOGIN CREATEDB CREATEROLE PASSWORD '{password}'"
        # In single-user mode, which needs no way in, a line is a statement.
        first = f"{role}\nCREATE DATABASE trunkline OWNER trunkline\n"
        self._run([self.program.path, "--single", "-j", "-D", fresh, "postgres"], first.replace("\n", ";\n\n"))
        fresh.rename(self.home)

    def launch(self, port: int) -> None:
        """Start the server; `ready` tells when it answers."""
        settings = _SETTINGS | {"port": str(port)} | ({} if self._durable else _FAST)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._port = port
        self.process = spawn(
            [self.program.path, "-D", self.home, *options],
            log=self.log,
            env=ENVIRONMENT,
            directory=self.home,
            account=self._account,
            # A fast shutdown: what is committed is on disk, and the next start needs no recovery.
            on_parent_death=signal.SIGINT,
        )

    def ready(self) -> bool:
        """Whether the server accepts connections, as it says itself in its pid file."""
        try:
            lines = (self.home / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ours = self.process is not None and lines[:1] == [str(self.process.pid)]
        return ours and len(lines) > 7 and lines[7].strip() == "ready"

    def url(self, password: str) -> str:
        """Where the database is, in libpq's form."""
        return f"postgresql://trunkline:{password}@127.0.0.1:{self._port}/trunkline"

    def stop(self) -> None:
        """Shut down fast, which rolls back what is open; without a checkpoint if that takes too long."""
        if self.process is not None:
            end(self.process, (signal.SIGINT, 10.0), (signal.SIGQUIT, 2.0))

    def _run(self, command: list[str | Path], text: str) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            input=text,
            env=ENVIRONMENT,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **self._account.identity,
        )
        with self.log.open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0:
            words = done.stderr.strip().splitlines()
            raise StartRefused(
                f"Postgres could not be set up in {self.home}: {words[-1] if words else 'no reason given'}"
            )
