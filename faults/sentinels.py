"""A Redis that fails over: a primary, a replica and three Sentinels, as processes."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

from faults.pods import PATIENCE, until
from trunkline.dev.process import end, free_port, spawn
from trunkline.dev.programs import find_valkey
from trunkline.streams.address import Place, RedisAddress
from trunkline.streams.connection import Connection, ConnectionLost, Reply
from trunkline.streams.sentinel import Sentinels

SERVICE = "main"
"""What the Sentinels call the primary."""
_HOST = "127.0.0.1"
_NODE = """\
bind 127.0.0.1
port {port}
dir "{home}"
requirepass {password}
masterauth {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
repl-diskless-sync-delay 0
"""
_SENTINEL = """\
bind 127.0.0.1
port {port}
dir "{home}"
requirepass {guard}
sentinel monitor {service} 127.0.0.1 {primary} 2
sentinel auth-pass {service} {password}
sentinel sentinel-pass {guard}
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 1000
sentinel parallel-syncs {service} 1
"""


class Node:
    """A process of them all, on data and a port that stay."""

    def __init__(self, directory: Path, name: str, configuration: str, **values: object) -> None:
        self.port = free_port()
        self.log = directory / f"{name}.log"
        self._home = directory / name
        self._home.mkdir()
        self._file = self._home / "server.conf"
        self._file.write_text(configuration.format(port=self.port, home=self._home, **values))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was launched last."""
        assert self._process is not None
        return self._process

    def launch(self, *options: str) -> None:
        """Start it; call it from the main thread. It writes its own configuration anew as things change."""
        self._process = spawn(
            [find_valkey().path, self._file, *options],
            log=self.log, env=dict(os.environ), directory=self._home, on_parent_death=SIGKILL,
        )  # fmt: skip

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.send_signal(SIGKILL)
        self.process.wait(PATIENCE)

    def end(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            end(self._process)

    def stop(self) -> None:
        """Let it do nothing more, as on a machine that hangs."""
        self.process.send_signal(SIGSTOP)

    def go_on(self) -> None:
        """Let it go on from where it was stopped."""
        self.process.send_signal(SIGCONT)


class GuardedRedis:
    """Two servers, one of them the primary, and the three Sentinels that see to it."""

    def __init__(self, directory: Path) -> None:
        self._password, self.guard = secrets.token_hex(16), secrets.token_hex(16)
        secret = {"password": self._password}
        self._nodes = [Node(directory, name, _NODE, **secret) for name in ("one", "other")]
        self._sentinels = [
            Node(
                directory, f"sentinel-{number}", _SENTINEL,
                primary=self._nodes[0].port, guard=self.guard, service=SERVICE, **secret,
            )
            for number in range(3)
        ]  # fmt: skip

    @property
    def settings(self) -> dict[str, object]:
        """Of pods that are to find it."""
        places = ",".join(f"{_HOST}:{each.port}" for each in self._sentinels)
        return {
            "redis_url": f"redis+sentinel://:{self._password}@{places}/{SERVICE}/0",
            "redis_sentinel_password": self.guard,
        }

    async def start(self) -> None:
        """Start them all and wait until a failover would succeed; call it from the main thread."""
        one, other = self._nodes
        one.launch()
        other.launch("--replicaof", _HOST, str(one.port))
        await until(lambda: self._follows(other, one), PATIENCE, f"a replica; its log is {other.log}")
        for each in self._sentinels:
            each.launch("--sentinel")
        await until(self._watched, PATIENCE, "the Sentinels to know each other and the replica")

    def end(self) -> None:
        """End them all; nobody needs their data any more."""
        for each in (*self._sentinels, *self._nodes):
            each.end()

    async def primary(self) -> Node:
        """The server that the Sentinels call the primary."""
        asked = Sentinels([self._sentinel(each) for each in self._sentinels], SERVICE, "faults")
        try:
            place = await asked.primary()
        finally:
            asked.close()
        return next(each for each in self._nodes if each.port == place.port)

    def besides(self, node: Node) -> Node:
        """The other server."""
        return next(each for each in self._nodes if each is not node)

    async def taken_over_from(self, lost: Node) -> None:
        """Wait until the other one is the primary."""

        async def taken_over() -> bool:
            return await self.primary() is not lost

        await until(taken_over, PATIENCE, f"a failover; the Sentinels' logs are beside {lost.log}")

    async def come_back(self, lost: Node) -> None:
        """Start a server that was killed as the replica of the other; call it from the main thread."""
        now = self.besides(lost)
        lost.launch("--replicaof", _HOST, str(now.port))
        await until(lambda: self._follows(lost, now), PATIENCE, f"a replica; its log is {lost.log}")

    async def hold_replication(self) -> None:
        """Have what the primary writes from now on reach no replica: that cannot log in any more."""
        primary = await self.primary()
        await self.ask(self.besides(primary), "CONFIG", "SET", "masterauth", "wrong")
        await self.ask(primary, "CLIENT", "KILL", "TYPE", "replica")

    async def release_replication(self) -> None:
        """Let the replica log in again."""
        for node in self._nodes:
            await self.ask(node, "CONFIG", "SET", "masterauth", self._password)

    async def ask(self, node: Node, *command: str) -> Reply:
        """What an operator asks of one server."""
        return await _ask(RedisAddress(Place(_HOST, node.port), password=self._password), *command)

    def _sentinel(self, node: Node) -> RedisAddress:
        return RedisAddress(Place(_HOST, node.port), password=self.guard)

    async def _follows(self, replica: Node, primary: Node) -> bool:
        try:
            role, _, port, state, *_ = [*await self.ask(replica, "ROLE"), 0, 0, 0]
        except ConnectionLost:
            return False
        return bool(role == b"slave" and port == primary.port and state == b"connected")

    async def _watched(self) -> bool:
        try:
            answers = [await _ask(self._sentinel(each), "SENTINEL", "MASTER", SERVICE) for each in self._sentinels]
        except ConnectionLost:
            return False
        known: list[dict[bytes, Any]] = [dict(zip(each[::2], each[1::2], strict=True)) for each in answers]
        return all(each[b"num-slaves"] == b"1" and each[b"num-other-sentinels"] == b"2" for each in known)


async def _ask(address: RedisAddress, *command: str) -> Reply:
    operator = await Connection.open(address, "operator")
    try:
        return await operator.send(*command)
    finally:
        operator.close()
        await operator.lost
