"""Which workers are alive."""

from __future__ import annotations

import threading
import time

import redis as redis_sync

from trunkline.settings import Settings
from trunkline.streams.client import Redis, source
from trunkline.streams.keys import Keys

LIFETIME_MS = 3_000
_BEAT_EVERY = 1.0


async def count_workers(redis: Redis) -> int:
    """How many workers gave a sign of life within its lifetime."""
    seconds, microseconds = await redis.command("TIME")
    now = int(seconds) * 1000 + int(microseconds) // 1000
    alive: int = await redis.command("ZCOUNT", redis.keys.workers, now, "+inf")
    return alive


class Pulse(threading.Thread):
    """A worker's sign of life: its own thread and connection, so that a tool that hogs the loop looks alive."""

    def __init__(self, settings: Settings, worker: str) -> None:
        super().__init__(name="pulse", daemon=True)
        self._settings = settings
        self._worker = worker
        self._key = Keys(settings).workers
        self._stopped = threading.Event()

    def run(self) -> None:
        """Beat every second until stopped; Redis being away only makes the beats fail."""
        client = redis_sync.Redis.from_url(self._settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
        try:
            while not self._stopped.is_set():
                started = time.monotonic()
                try:
                    client.eval(source("beat"), 1, self._key, self._worker, LIFETIME_MS, 0)
                except redis_sync.RedisError:
                    client.close()
                self._stopped.wait(max(_BEAT_EVERY - (time.monotonic() - started), 0.1))
            client.zrem(self._key, self._worker)
        except redis_sync.RedisError:
            return  # it expires by itself
        finally:
            client.close()

    def stop(self) -> None:
        """End the life, visibly at once."""
        self._stopped.set()
        self.join(timeout=5)
