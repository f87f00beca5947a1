"""Which workers are alive, and how many calls they run at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable, Mapping

from trunkline.settings import Settings
from trunkline.streams.client import Redis, source
from trunkline.streams.connection import Connection, ConnectionLost, RedisRefusal
from trunkline.streams.dialer import Dialer
from trunkline.streams.keys import Keys

LIFETIME_MS = 3_000
"""How long a sign of life holds."""
_BEAT_EVERY = 1.0
_ANSWERS_WITHIN = 2.0
"""Seconds that Redis has for a beat."""
_TRY_EVERY = 0.2
"""Seconds between beats while Redis is away: once it is back, it must know soon who lives."""


async def count_workers(redis: Redis) -> int:
    """How many workers gave a sign of life within its lifetime."""
    seconds, microseconds = await redis.command("TIME")
    now = int(seconds) * 1000 + int(microseconds) // 1000
    alive: int = await redis.command("ZCOUNT", redis.keys.workers, now, "+inf")
    return alive


def _member(worker: str, slots: int) -> str:
    return f"{worker} {slots}"


async def first_beat(redis: Redis, worker: str, slots: int) -> None:
    """Show a worker to be alive before it claims anything."""
    await redis.script("beat", [redis.keys.workers], [_member(worker, slots), LIFETIME_MS])


async def signs_of_life(redis: Redis) -> dict[str, tuple[float, int]]:
    """Last sign (epoch ms until which it holds) and slots of each worker that lived within the last minute."""
    reply = await redis.command("ZRANGE", redis.keys.workers, 0, -1, "WITHSCORES")
    signs = {}
    for member, score in zip(reply[::2], reply[1::2], strict=True):
        worker, _, slots = member.decode().rpartition(" ")
        signs[worker] = (float(score), int(slots))
    return signs


class Vigil:
    """Tells who is dead by what this process itself has seen.

    A sign of life that has expired by Redis' clock proves nothing: Redis may have been away, or this process may have
    stood still. Dead is who gave no new sign for `LIFETIME_MS` during which this process looked and Redis answered.
    """

    _LONGEST_GAP = 3.5
    """Seconds between two looks beyond which what was seen before says nothing."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}
        """Of each worker the last sign and when it was first seen, by this process' monotonic clock."""
        self._looked = float("-inf")

    def forget(self) -> None:
        """What was seen so far says nothing: Redis did not answer meanwhile."""
        self._seen.clear()

    def dead(self, signs: Mapping[str, float], workers: Iterable[str], now: float) -> set[str]:
        """Who is dead.

        Args:
            signs: The signs of life as they are now.
            workers: Who else is known, by what was claimed; without a sign, but perhaps just started.
            now: Seconds of a monotonic clock.
        """
        if now - self._looked > self._LONGEST_GAP:
            self._seen.clear()
        self._looked = now
        seen = {}
        for worker in {*signs, *workers}:
            sign = signs.get(worker, 0.0)
            before = self._seen.get(worker)
            seen[worker] = before if before is not None and before[0] == sign else (sign, now)
        self._seen = seen
        return {worker for worker, (_, since) in seen.items() if now - since >= LIFETIME_MS / 1000}


class Pulse(threading.Thread):
    """A worker's sign of life: its own thread, loop and connection, so that a tool that hogs the loop looks alive."""

    def __init__(self, settings: Settings, worker: str) -> None:
        super().__init__(name="pulse", daemon=True)
        self._settings = settings
        self._member = _member(worker, settings.concurrency)
        self._key = Keys(settings).workers
        self._stopped = False
        self._over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Beat every second until stopped; Redis being away only makes the beats fail."""
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        dialer = Dialer(self._settings, "worker")
        connection: Connection | None = None
        try:
            while not self._stopped:
                started, every = time.monotonic(), _BEAT_EVERY
                try:
                    async with asyncio.timeout(_ANSWERS_WITHIN):
                        if connection is None:
                            connection = await dialer.open("pulse")
                        await connection.send("EVAL", source("beat"), 1, self._key, self._member, LIFETIME_MS, 0)
                except (ConnectionLost, RedisRefusal, TimeoutError):
                    if connection is not None:
                        connection.close()
                    connection, every = None, _TRY_EVERY
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(every - (time.monotonic() - started), 0.1)):
                        await self._over.wait()
            if connection is not None:
                async with asyncio.timeout(_ANSWERS_WITHIN):
                    await connection.send("ZREM", self._key, self._member)
        except (ConnectionLost, RedisRefusal, TimeoutError):
            return  # it expires by itself
        finally:
            if connection is not None:
                connection.close()
            await dialer.aclose()

    def stop(self) -> None:
        """End the life, visibly at once."""
        self._stopped = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._over.set)
        if self.is_alive():
            self.join(timeout=5)
