"""A process's way to Redis: commands and scripts over one shared connection, repeated after a lost one.

Whatever goes through here may be sent twice, when a connection breaks before the answer came. That is why plain
writes must be harmless when repeated, and why every script learns, as its last argument, whether it is a repetition.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib import resources
from typing import Self

from trunkline.errors import StartRefused, Unavailable
from trunkline.settings import Settings
from trunkline.streams.clock import RedisClock
from trunkline.streams.connection import Argument, Connection, ConnectionLost, RedisRefusal, Reply, Unusable
from trunkline.streams.dialer import Dialer
from trunkline.streams.keys import Keys
from trunkline.streams.replicas import UNKNOWN, NotConfirmed, Replicas

_PASSING = frozenset({"LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN", "NOSCRIPT"})
_NO_WRITES = frozenset({"OOM", "READONLY", "MISCONF", "NOREPLICAS"})
_INCLUDE = re.compile(r"^--@include (\w+)$", re.MULTILINE)

_Attempt = Callable[[Connection], Awaitable[Reply]]

_LEAVE_EVERY = 1.0
"""Seconds between two connections to a server that takes no writes."""

PATIENCE = 3.0
"""Seconds for which a command is tried again while Redis is away, unless the caller says otherwise."""


@cache
def source(name: str) -> str:
    """The text of a script, with what it includes."""
    text = resources.files("trunkline.streams").joinpath("scripts", f"{name}.lua").read_text("utf-8")
    return _INCLUDE.sub(lambda found: source(found[1]), text)


@cache
def digest(name: str) -> str:
    """The SHA-1 by which Redis knows a script."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()


class Redis:
    """Commands and scripts of one process.

    Raises, from every call:
        Unavailable: Redis is away for longer than the patience given, or refuses writes (memory or disk full,
            read-only replica). Where it went away under a script, that may have been carried out all the same.
    """

    def __init__(self, settings: Settings, process: str) -> None:
        self.settings = settings
        self.keys = Keys(settings)
        self.process = process
        self.clock = RedisClock()
        """What time it is, for whatever pods must agree on; read it now and then."""
        self.replicas: Replicas | None = None
        """Those that are to have what was done, where REDIS_WAIT_REPLICAS asks for any."""
        if settings.redis_wait_replicas:
            self.replicas = Replicas(settings.redis_wait_replicas, settings.redis_wait_timeout, self.keys.confirm)
        self._dialer = Dialer(settings, process)
        self._connection: Connection | None = None
        self._dialing: asyncio.Task[Connection] | None = None
        self._closed = False
        self._left_at = float("-inf")

    @classmethod
    async def connect(cls, settings: Settings, process: str, *, patience: float = PATIENCE) -> Self:
        """Connect as `process` ("api", "worker", "cli"), waiting up to `patience` seconds for Redis.

        Raises:
            StartRefused: TRUNKLINE_REDIS_URL cannot be read, or leads to what cannot be trusted or refuses us.
            Unavailable: Redis is away.
        """
        redis = cls(settings, process)
        try:
            await redis.command("PING", patience=patience)
            await redis.clock.read(redis)
        except BaseException:
            await redis.aclose()
            raise
        return redis

    async def aclose(self) -> None:
        """Close the connection; what still waits fails."""
        self._closed = True
        if self._dialing is not None:
            self._dialing.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
            await connection.lost
        await self._dialer.aclose()

    async def dial(
        self, role: str, *, on_push: Callable[[Reply], None] | None = None, timeout: float = 5.0
    ) -> Connection:
        """A connection of one's own, for blocking reads and subscriptions."""
        return await self._dialer.open(role, on_push=on_push, timeout=timeout)

    @property
    def reopened_total(self) -> int:
        """Connections that were opened in the place of lost ones so far."""
        return self._dialer.reopened_total

    async def command(self, *command: Argument, patience: float | None = PATIENCE) -> Reply:
        """Run a command that is harmless when repeated; `patience` None tries until it succeeds."""
        connection, end = self._connection, self._end(patience)
        if connection is not None:
            try:
                return await connection.send(*command)
            except (ConnectionLost, RedisRefusal) as error:
                self._raise_unless_passing(error, patience)
        return await self._persist(patience, end, lambda there: there.send(*command))

    async def script(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], *, patience: float | None = PATIENCE
    ) -> Reply:
        """Run a script of this package; `patience` None tries until it succeeds."""
        connection, end, repeated = self._connection, self._end(patience), 0
        if connection is not None:
            try:
                return await connection.send("EVALSHA", digest(name), len(keys), *keys, *args, 0)
            except (ConnectionLost, RedisRefusal) as error:
                self._raise_unless_passing(error, patience)
                repeated = int(isinstance(error, ConnectionLost))

        def attempt(there: Connection) -> asyncio.Future[Reply]:
            nonlocal repeated
            sent = there.send("EVAL", source(name), len(keys), *keys, *args, repeated)
            repeated = 1
            return sent

        return await self._persist(patience, end, attempt)

    async def confirmed(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], *, patience: float | None = PATIENCE
    ) -> Reply:
        """Run a script whose outcome must outlive this server: as `script`, and replicas have it when this returns.

        Where REDIS_WAIT_REPLICAS asks for none, it is `script`. `patience` None waits for them as long as it takes.

        Raises:
            NotConfirmed: they had it not within REDIS_WAIT_TIMEOUT, or it was lost with the connection.
        """
        if self.replicas is None:
            return await self.script(name, keys, args, patience=patience)
        return await self._confirm(self.replicas, name, keys, args, patience)

    async def settled(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Reply:
        """As `confirmed`, where it can be; after REDIS_WAIT_TIMEOUT the reply is returned all the same."""
        try:
            return await self.confirmed(name, keys, args)
        except NotConfirmed as unsure:
            if unsure.reply is UNKNOWN:
                raise
            return unsure.reply

    async def reached(self, replicas: Replicas, source: Connection) -> bool:
        """Wait until replicas have all that the server of `source` has done by now.

        Returns:
            False where that is not our server any more: then it is not known which of it will last.
        """
        while not source.lost.done():
            try:
                there = await self._connected()
            except ConnectionLost:
                await asyncio.sleep(0.02)
                continue
            if there.server != source.server:
                source.close()
                break
            if await replicas.on(there).join():
                return not source.lost.done()
        return False

    async def _confirm(
        self,
        replicas: Replicas,
        name: str,
        keys: Sequence[str],
        args: Sequence[Argument],
        patience: float | None,
    ) -> Reply:
        first, repeated = True, 0

        async def attempt(there: Connection) -> Reply:
            nonlocal first, repeated
            joined = replicas.on(there).join()
            known = ("EVALSHA", digest(name)) if first else ("EVAL", source(name))
            first = False
            try:
                reply = await there.send(*known, len(keys), *keys, *args, repeated)
                try:
                    async with asyncio.timeout(None if patience is None else replicas.seconds):
                        confirmed = await joined
                except TimeoutError:
                    raise NotConfirmed(reply) from None
                if not confirmed:
                    raise ConnectionLost("the connection to Redis was lost before replicas had what was done")
            except (ConnectionLost, asyncio.CancelledError):
                repeated = 1
                raise
            return reply

        try:
            return await self._persist(patience, self._end(patience), attempt)
        except NotConfirmed:
            raise
        except Unavailable as error:
            if repeated:
                raise NotConfirmed from error
            raise

    def _end(self, patience: float | None) -> float:
        return math.inf if patience is None else asyncio.get_running_loop().time() + patience

    async def _persist(self, patience: float | None, end: float, attempt: _Attempt) -> Reply:
        clock = asyncio.get_running_loop().time
        pause = 0.02
        while True:
            try:
                async with asyncio.timeout_at(None if end == math.inf else end):
                    return await attempt(await self._connected())
            except (ConnectionLost, RedisRefusal, TimeoutError) as error:
                if not isinstance(error, TimeoutError):
                    self._raise_unless_passing(error, patience)
                if self._closed or clock() + pause > end:
                    raise Unavailable("Redis is away; try again shortly.", retry_after=1) from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, 0.5)

    async def _connected(self) -> Connection:
        """The connection, or a new one; all who wait for it wait for the same attempt."""
        if self._connection is None or self._connection.lost.done():
            if self._closed:
                raise ConnectionLost("this process has closed its connection to Redis")
            if self._dialing is None or self._dialing.done():
                self._dialing = asyncio.create_task(self._reconnect())
                self._dialing.add_done_callback(lambda done: done.cancelled() or done.exception())
            return await asyncio.shield(self._dialing)
        return self._connection

    async def _reconnect(self) -> Connection:
        self._connection = await self.dial("commands", timeout=PATIENCE)
        return self._connection

    def _raise_unless_passing(self, error: ConnectionLost | RedisRefusal, patience: float | None) -> None:
        """Lost connections, flushed scripts and a Redis that starts pass; one without writes, for the patient."""
        if isinstance(error, ConnectionLost):
            if isinstance(error, Unusable) and self._connection is None and patience is not None:
                raise StartRefused(f"{error}.".replace("..", ".")) from error
            return
        if error.kind in _PASSING:
            return
        if error.kind not in _NO_WRITES:
            raise error
        if error.kind == "READONLY":
            self._leave_replica()
            if self._dialer.follows:  # another one takes over, or has
                return
        if patience is not None:
            raise Unavailable("Redis accepts no writes at the moment; try again shortly.", retry_after=5) from error

    def _leave_replica(self) -> None:
        """What was the primary is none any more: dial anew, for the address may lead to another server by now."""
        now = asyncio.get_running_loop().time()
        if self._connection is not None and now - self._left_at > _LEAVE_EVERY:
            self._left_at = now
            self._connection.close()
