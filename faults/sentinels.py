"""A Redis that fails over: a primary, a replica and three Sentinels, as processes."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

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
repl-timeout 5
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
sentinel down-after-milliseconds {service} 1000
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


class ReplicatedRedis:
    """A primary and its replica; either may become the other."""

    def __init__(self, directory: Path) -> None:
        self._password = secrets.token_hex(16)
        self.nodes = [Node(directory, name, _NODE, password=self._password) for name in ("one", "other")]

    async def start(self) -> None:
        """Start both and wait until the second follows the first; call it from the main thread."""
        one, other = self.nodes
        one.launch()
        other.launch("--replicaof", _HOST, str(one.port))
        await until(lambda: self._follows(other, one), PATIENCE, f"a replica; its log is {other.log}")

    def end(self) -> None:
        """End all; nobody needs their data any more."""
        for each in self.nodes:
            each.end()

    def url(self, node: Node) -> str:
        """Where one of them is."""
        return f"redis://:{self._password}@{_HOST}:{node.port}/0"

    def besides(self, node: Node) -> Node:
        """The other server."""
        return next(each for each in self.nodes if each is not node)

    async def hold_replication(self, primary: Node) -> None:
        """Have what the primary writes from now on reach no replica: that cannot log in any more."""
        await self.ask(self.besides(primary), "CONFIG", "SET", "masterauth", "wrong")
        await self.ask(primary, "CLIENT", "KILL", "TYPE", "replica")

    async def release_replication(self, primary: Node) -> None:
        """Let the replica log in again."""
        replica = self.besides(primary)
        await self.let_follow(replica)
        await until(lambda: self._follows(replica, primary), PATIENCE, f"a replica; its log is {replica.log}")

    async def let_follow(self, node: Node) -> None:
        """Let a server log in at the other again, whenever it is to be its replica."""
        await self.ask(node, "CONFIG", "SET", "masterauth", self._password)
        await self.ask(node, "CONFIG", "REWRITE")  # who was promoted without it has that in its file

    async def ask(self, node: Node, *command: str) -> Reply:
        """What an operator asks of one server."""
        return await _ask(RedisAddress(Place(_HOST, node.port), password=self._password), *command)

    async def _follows(self, replica: Node, primary: Node) -> bool:
        try:
            role, _, port, state, *_ = [*await self.ask(replica, "ROLE"), 0, 0, 0]
        except ConnectionLost:
            return False
        return bool(role == b"slave" and port == primary.port and state == b"connected")


class GuardedRedis(ReplicatedRedis):
    """The same with three Sentinels, which see to it that there is a primary."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._guard = secrets.token_hex(16)
        values = {"primary": self.nodes[0].port, "guard": self._guard, "password": self._password}
        self._sentinels = [
            Node(directory, f"sentinel-{number}", _SENTINEL, service=SERVICE, **values) for number in range(3)
        ]

    @property
    def settings(self) -> dict[str, object]:
        """Of pods that are to find it."""
        places = ",".join(f"{_HOST}:{each.port}" for each in self._sentinels)
        return {
            "redis_url": f"redis+sentinel://:{self._password}@{places}/{SERVICE}/0",
            "redis_sentinel_password": self._guard,
        }

    async def start(self) -> None:
        """Start them all; call it from the main thread. A failover succeeds once they are `watched`."""
        await super().start()
        for each in self._sentinels:
            each.launch("--sentinel")

    def end(self) -> None:
        """End all; nobody needs their data any more."""
        for each in self._sentinels:
            each.end()
        super().end()

    async def primary(self) -> Node:
        """The server that the Sentinels call the primary."""
        asked = Sentinels([self._sentinel(each) for each in self._sentinels], SERVICE, "faults")
        try:
            place = await asked.primary()
        finally:
            asked.close()
        return next(each for each in self.nodes if each.port == place.port)

    async def taken_over_from(self, lost: Node) -> None:
        """Wait until the other one is the primary."""

        async def taken_over() -> bool:
            return await self.primary() is not lost

        await until(taken_over, PATIENCE, f"a failover; the Sentinels' logs are beside {lost.log}")
        await self.let_follow(self.besides(lost))

    async def come_back(self, lost: Node) -> None:
        """Start a server that was killed as the replica of the other; call it from the main thread.

        Until it has the other's data, it has what it had when it died: it must not become the primary with that.
        """
        lost.launch("--replicaof", _HOST, str(self.besides(lost).port), "--replica-priority", "0")
        await until(self._replicated, PATIENCE, f"a replica; its log is {lost.log}")
        await self.ask(lost, "CONFIG", "SET", "replica-priority", "100")

    async def _replicated(self) -> bool:
        primary = await self.primary()  # there may have been another failover meanwhile
        return await self._follows(self.besides(primary), primary)

    async def watched(self) -> None:
        """Wait until a failover would succeed: the Sentinels know each other, and a replica that follows."""
        await until(self._all_know, PATIENCE, "the Sentinels to know each other and the replica")

    def _sentinel(self, node: Node) -> RedisAddress:
        return RedisAddress(Place(_HOST, node.port), password=self._guard)

    async def _all_know(self) -> bool:
        asked = [self._sentinel(each) for each in self._sentinels]
        try:
            masters = [_fields(await _ask(each, "SENTINEL", "MASTER", SERVICE)) for each in asked]
            replicas = [await _ask(each, "SENTINEL", "REPLICAS", SERVICE) for each in asked]
        except ConnectionLost:
            return False
        return await self._replicated() and all(
            each[b"num-other-sentinels"] == b"2"
            and each[b"flags"] == b"master"
            and [_fields(replica)[b"flags"] for replica in known] == [b"slave"]
            for each, known in zip(masters, replicas, strict=True)
        )


def _fields(reply: Reply) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


async def _ask(address: RedisAddress, *command: str) -> Reply:
    operator = await Connection.open(address, "operator")
    try:
        return await operator.send(*command)
    finally:
        operator.close()
        await operator.lost
