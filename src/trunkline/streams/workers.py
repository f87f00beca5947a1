"""Which workers are alive, and how many calls they run at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

import redis as redis_sync

from trunkline.settings import Settings
from trunkline.streams.client import Redis, source
from trunkline.streams.keys import Keys

LIFETIME_MS = 3_000
"""How long a sign of life holds."""
_BEAT_EVERY = 1.0
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
    """A worker's sign of life: its own thread and connection, so that a tool that hogs the loop looks alive."""

    def __init__(self, settings: Settings, worker: str) -> None:
        super().__init__(name="pulse", daemon=True)
        self._settings = settings
        self._member = _member(worker, settings.concurrency)
        self._key = Keys(settings).workers
        self._stopped = threading.Event()

    def run(self) -> None:
        """Beat every second until stopped; Redis being away only makes the beats fail."""
        client = redis_sync.Redis.from_url(self._settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
        try:
            while not self._stopped.is_set():
                started, every = time.monotonic(), _BEAT_EVERY
                try:
                    client.eval(source("beat"), 1, self._key, self._member, LIFETIME_MS, 0)
                except redis_sync.RedisError:
                    client.close()
                    every = _TRY_EVERY
                self._stopped.wait(max(every - (time.monotonic() - started), 0.1))
            client.zrem(self._key, self._member)
        except redis_sync.RedisError:
            return  # it expires by itself
        finally:
            client.close()

    def stop(self) -> None:
        """End the life, visibly at once."""
        self._stopped.set()
        if self.is_alive():
            self.join(timeout=5)
