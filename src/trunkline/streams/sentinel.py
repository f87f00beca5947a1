"""Which server is the primary, as its Sentinels tell.

All Sentinels are asked at once, over connections that stay, and a majority's answers are waited for: one that is away
costs no time, and of those that disagree right after a failover the newest configuration counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trunkline.errors import StartRefused
from trunkline.streams.address import Place, RedisAddress
from trunkline.streams.connection import Connection, ConnectionLost, RedisRefusal, Reply, Unusable

_PATIENCE = 1.0
"""Seconds that a Sentinel has to answer."""


class _Told(NamedTuple):
    """What one Sentinel says."""

    epoch: int
    """Of the configuration that it knows: each failover has the next number."""
    primary: Place


class _UnknownService(Exception):
    """The Sentinel monitors no primary of that name."""


class Sentinels:
    """Those that watch one primary. Of one event loop; `close` ends their connections."""

    def __init__(self, sentinels: Sequence[RedisAddress], service: str, name: str) -> None:
        self._sentinels = sentinels
        self._service = service
        self._name = name
        self._links: dict[RedisAddress, Connection] = {}
        self._asking: asyncio.Task[Place] | None = None

    async def primary(self) -> Place:
        """Where the primary is; all who ask at the same time share the answer.

        Raises:
            ConnectionLost: no Sentinel answers.
            Unusable: they answer, but know nothing of the primary, or not to us.
            StartRefused: the files that the address names for TLS cannot be used.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._asking)

    def close(self) -> None:
        """End what is under way."""
        if self._asking is not None:
            self._asking.cancel()
        for link in self._links.values():
            link.close()

    async def _ask_all(self) -> Place:
        asked = {asyncio.create_task(self._ask(each)) for each in self._sentinels}
        pending, told = set(asked), list[_Told]()
        try:
            while pending and len(told) <= len(asked) // 2:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                told += [task.result() for task in done if task.exception() is None]
        finally:
            for task in pending:
                task.cancel()
        if told:
            return max(told, key=lambda each: each.epoch).primary
        raise self._why_not(task.exception() for task in asked)

    def _why_not(self, failures: Iterable[BaseException | None]) -> BaseException:
        reasons = list(failures)
        for failure in reasons:
            if isinstance(failure, StartRefused):
                return failure
            if isinstance(failure, _UnknownService):
                return Unusable(f"No Sentinel knows a primary that is called {self._service!r}.")
            if isinstance(failure, Unusable):
                return Unusable(f"A Sentinel is of no use: {failure}")
        return ConnectionLost(f"no Sentinel answers: {reasons[0] or 'out of time'}")

    async def _ask(self, sentinel: RedisAddress) -> _Told:
        link: Connection | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                link = await self._link(sentinel)
                place, known = await asyncio.gather(
                    link.send("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service),
                    link.send("SENTINEL", "MASTER", self._service),
                    return_exceptions=True,
                )
        except TimeoutError as error:
            if link is not None:
                link.close()
            raise ConnectionLost(f"the Sentinel at {sentinel} does not answer") from error
        if isinstance(place, RedisRefusal):
            raise Unusable(f"the one at {sentinel} refuses: {place}") from place
        if isinstance(place, BaseException):
            raise place
        if place is None:
            raise _UnknownService
        return _Told(_epoch(known), Place(place[0].decode(), int(place[1])))

    async def _link(self, sentinel: RedisAddress) -> Connection:
        link = self._links.get(sentinel)
        if link is None or link.lost.done():
            link = self._links[sentinel] = await Connection.open(sentinel, self._name, timeout=_PATIENCE)
        return link


def _epoch(known: Reply | BaseException) -> int:
    """The configuration's number, of what SENTINEL MASTER answers; 0 where that is refused."""
    if isinstance(known, BaseException):
        return 0
    return int(dict(zip(known[::2], known[1::2], strict=False)).get(b"config-epoch", 0))
