"""One connection to Redis: replies in order, commands of one turn of the event loop in one write.

redis-py spends 17 us of CPU on a command in a pipeline of 32, this 6 (docs/decisions/0002-own-redis-connection.md).
It keeps to hiredis for the protocol; `address` reads URLs and `dialer` finds the server.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Self, cast

import hiredis

from trunkline.streams.address import Place, RedisAddress

Argument = str | int | float | bytes
_NOT_FOR_US = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})
Reply = Any
"""bytes, int, None, a list of these, or a RedisRefusal among them."""


class ConnectionLost(Exception):
    """The connection to Redis broke; what was under way may or may not have happened."""


class Unusable(ConnectionLost):
    """What was reached cannot be trusted, refuses our login, or knows nothing of what it is asked for."""


class RedisRefusal(Exception):
    """Redis answered with an error; the command was not carried out."""

    @property
    def kind(self) -> str:
        """The first word of the answer, such as NOSCRIPT, OOM or READONLY."""
        return str(self).partition(" ")[0]


class Connection(asyncio.Protocol):
    """A connection that multiplexes: any number of commands may be under way, answered in the order of sending.

    Guarantees: commands are executed in the order of `send`; when the connection is lost, every unanswered
    command fails with `ConnectionLost`, none stays for ever. A peer that answers nothing for `timeout` seconds
    while a command waits is given up.
    """

    def __init__(self, on_push: Callable[[Reply], None] | None = None, timeout: float = 5.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=RedisRefusal, protocolError=ConnectionLost)
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._on_push = on_push
        self._timeout = timeout
        self.heard = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection has ended, for whatever reason."""
        self.place = Place("", 0)
        """Where it leads."""
        self.server = b""
        """Which process that is, by its own name for itself, which each start has anew; not always asked for."""

    @classmethod
    async def open(
        cls,
        address: RedisAddress | str,
        name: str,
        *,
        on_push: Callable[[Reply], None] | None = None,
        timeout: float = 5.0,
    ) -> Self:
        """Connect, authenticate and select the database that `address` names; `name` shows in CLIENT LIST.

        Raises:
            ConnectionLost: Redis cannot be reached.
            Unusable: its certificate does not convince, or it refuses the credentials.
            StartRefused: the address cannot be read, or names files that cannot.
        """
        target = RedisAddress.parse(address) if isinstance(address, str) else address
        connection = cls(on_push, timeout)
        try:
            async with asyncio.timeout(timeout):
                await connection._reach(target)
                for command in _greeting(target, name):
                    await connection.send(*command)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise Unusable(f"The certificate of {target} does not convince: {error.verify_message}") from error
        except (OSError, TimeoutError, RedisRefusal) as error:
            connection.close()
            if isinstance(error, RedisRefusal) and error.kind in _NOT_FOR_US:
                raise Unusable(f"Redis at {target} refuses the login: {error}") from error
            raise ConnectionLost(f"Redis cannot be reached: {error}") from error
        except BaseException:
            connection.close()  # nobody else knows of it
            raise
        return connection

    async def _reach(self, target: RedisAddress) -> None:
        self.place = target.place
        if target.path:
            await self._loop.create_unix_connection(lambda: self, target.path)
            return
        await self._loop.create_connection(lambda: self, *target.place, ssl=target.context())

    def send(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send one command; the future gives its reply, or raises RedisRefusal or ConnectionLost."""
        reply: asyncio.Future[Reply] = self._loop.create_future()
        if self._transport is None:
            reply.set_exception(ConnectionLost("the connection to Redis is closed"))
            return reply
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(hiredis.pack_command(cast("Any", command)))
        if not self._waiting:
            self.heard = self._loop.time()
        self._waiting.append(reply)
        return reply

    def push(self, *command: Argument) -> None:
        """Send a command whose answers come as pushes (SUBSCRIBE, PING while subscribed)."""
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(cast("Any", command)))

    def now(self) -> float:
        """Seconds of the event loop's monotonic clock."""
        return self._loop.time()

    def close(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self._transport = transport  # type: ignore[assignment]
        self._watch = self._loop.call_later(1.0, self._check)

    def data_received(self, data: bytes) -> None:
        """Hand each complete reply to the one who waits for it."""
        self.heard = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if self._on_push is not None and not self._waiting:
                    self._on_push(reply)
                    continue
                waiting = self._waiting.popleft()
                if waiting.done():
                    continue
                if isinstance(reply, RedisRefusal):
                    waiting.set_exception(reply)
                else:
                    waiting.set_result(reply)
        except (ConnectionLost, IndexError):  # the peer does not speak RESP
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whatever still waits."""
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(ConnectionLost(f"the connection to Redis was lost: {exc or 'closed'}"))
        self._waiting.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    def _check(self) -> None:
        if self._waiting and self._loop.time() - self.heard > self._timeout:
            self.close()
            return
        self._watch = self._loop.call_later(1.0, self._check)


def _greeting(target: RedisAddress, name: str) -> list[tuple[Argument, ...]]:
    commands: list[tuple[Argument, ...]] = []
    if target.password:
        user = target.username
        commands.append(("AUTH", user, target.password) if user else ("AUTH", target.password))
    commands.append(("CLIENT", "SETNAME", name))
    if target.database:
        commands.append(("SELECT", target.database))
    return commands
