"""An embedded Valkey (or Redis) on 127.0.0.1, as durable as production's: append-only file, fsync every second."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from trunkline.dev.account import Account
from trunkline.dev.process import end, end_leftover, spawn
from trunkline.dev.programs import Program

_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{home}"
pidfile "{home}/server.pid"
set-proc-title no
appendonly {appendonly}
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class Valkey:
    """One server process on one data directory."""

    def __init__(self, program: Program, home: Path, account: Account, log: Path, *, durable: bool) -> None:
        self.program = program
        self.home = home
        self.log = log
        self._account = account
        self._durable = durable
        self._port = 0
        self._password = ""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def title(self) -> str:
        """What it is, for people."""
        return "{} {}.{}".format(self.program.engine.capitalize(), *self.program.version)

    def prepare(self, password: str) -> None:
        """Make the directory, and stop whatever was left running on it."""
        self._password = password
        if not self.home.exists():
            self.home.mkdir(mode=0o700)
            self._account.own(self.home)
        end_leftover(self.home / "server.pid", str(self.home), signal.SIGTERM)

    def launch(self, port: int) -> None:
        """Start the server; `ready` tells when it answers."""
        self._port = port
        # In a file, for command lines are there for every user to read.
        configuration = self.home / "server.conf"
        configuration.unlink(missing_ok=True)
        with os.fdopen(os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(
                _CONFIGURATION.format(
                    port=port,
                    password=self._password,
                    home=self.home,
                    appendonly="yes" if self._durable else "no",
                )
            )
        self._account.own(configuration)
        self.process = spawn(
            [self.program.path, configuration],
            log=self.log,
            env={"LC_ALL": "C", "TZ": "UTC"},
            directory=self.home,
            account=self._account,
        )

    def ready(self) -> bool:
        """Whether the server on our port answers, knows our password and has loaded its data."""
        with socket.socket() as client:
            client.settimeout(1.0)
            try:
                client.connect(("127.0.0.1", self._port))
                client.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (received := client.recv(1024)):
                    answer += received
            except OSError:
                return False
        return answer == b"+OK\r\n+PONG\r\n"

    def url(self, password: str) -> str:
        """Where it is, in Redis' own form."""
        return f"redis://:{password}@127.0.0.1:{self._port}/0"

    def stop(self) -> None:
        """End in order: the append-only file is synced first."""
        if self.process is not None:
            end(self.process, (signal.SIGTERM, 10.0))
