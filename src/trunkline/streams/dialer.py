"""A process' connections to Redis: opened to whichever server is the primary, and left when it is not any more.

With Sentinels, a primary that was replaced may live on, cut off from them, and take writes that nobody will ever see.
So they are asked every second, and connections to any other server are closed; whoever held one dials anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from functools import cached_property
from weakref import WeakSet

import structlog

from trunkline.errors import StartRefused
from trunkline.settings import Settings
from trunkline.streams.address import RedisAddress
from trunkline.streams.connection import Connection, ConnectionLost, RedisRefusal, Reply
from trunkline.streams.sentinel import Sentinels

_ASK_EVERY = 1.0

log = structlog.get_logger(__name__)


class Dialer:
    """Opens the connections of one event loop."""

    def __init__(self, settings: Settings, process: str) -> None:
        self._settings = settings
        self._process = process
        self._opened: WeakSet[Connection] = WeakSet()
        self._following: asyncio.Task[None] | None = None
        self._roles: set[str] = set()
        self.reopened_total = 0
        """Connections opened in the place of one that had been lost: each role has one at a time."""

    @cached_property
    def address(self) -> RedisAddress:
        """What TRUNKLINE_REDIS_URL says.

        Raises:
            StartRefused: it cannot be read.
        """
        return RedisAddress.parse(self._settings.redis_url)

    @cached_property
    def _sentinels(self) -> Sentinels | None:
        address, settings = self.address, self._settings
        if not address.sentinels:
            return None
        login = settings.redis_sentinel_username, settings.redis_sentinel_password.get_secret_value()
        known = [address.sentinel(place, *login) for place in address.sentinels]
        return Sentinels(known, address.service, f"trunkline-{self._process}-sentinel")

    @property
    def follows(self) -> bool:
        """Whether another server may become the primary, and be found."""
        return self._sentinels is not None

    async def open(
        self, role: str, *, on_push: Callable[[Reply], None] | None = None, timeout: float = 5.0
    ) -> Connection:
        """A connection to the primary; who gets it closes it.

        Raises:
            ConnectionLost: there is none that can be reached.
            Unusable: there is, and it or what finds it is not for us.
            StartRefused: the settings cannot be read, or name files that cannot. Later than at the first connection
                that is a ConnectionLost: whoever renews a certificate may need a moment for it.
        """
        try:
            connection = await self._open(f"trunkline-{self._process}-{role}", on_push, timeout)
        except StartRefused as error:
            if self._roles:
                raise ConnectionLost(error.message) from error
            raise
        self.reopened_total += role in self._roles
        self._roles.add(role)
        return connection

    async def _open(self, name: str, on_push: Callable[[Reply], None] | None, timeout: float) -> Connection:
        address, sentinels = self.address, self._sentinels
        if sentinels is not None:
            address = address.at(await sentinels.primary())
        connection = await Connection.open(address, name, on_push=on_push, timeout=timeout)
        try:
            if sentinels is not None:
                await self._keep_to_primary(connection, sentinels)
            if self._settings.redis_wait_replicas:
                connection.server = _run_id(await connection.send("INFO", "server"))
        except RedisRefusal as error:
            connection.close()
            raise ConnectionLost(f"Redis at {address} does not tell what it is: {error}") from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def _keep_to_primary(self, connection: Connection, sentinels: Sentinels) -> None:
        (state, *_) = await connection.send("ROLE")
        if state != b"master":
            raise ConnectionLost(f"Redis at {connection.place} is no primary")
        self._opened.add(connection)
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow(sentinels))

    async def aclose(self) -> None:
        """Ask nobody any more; the connections that were opened are their holders' to close."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._sentinels is not None:
            self._sentinels.close()

    async def _follow(self, sentinels: Sentinels) -> None:
        while True:
            await asyncio.sleep(_ASK_EVERY)
            with contextlib.suppress(ConnectionLost, StartRefused):
                primary = await sentinels.primary()
                for connection in list(self._opened):
                    if connection.place != primary and not connection.lost.done():
                        log.warning("leaving a server that is not the primary", at=str(connection.place))
                        connection.close()


def _run_id(info: bytes) -> bytes:
    """What a server's process calls itself, of its INFO."""
    found = re.search(rb"^run_id:(\w+)", info, re.MULTILINE)
    return found[1] if found else b""
