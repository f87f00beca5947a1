"""A tenant's audit log as it grows."""

from __future__ import annotations

from trunkline.db import Database
from trunkline.streams.client import Redis


class Tail:
    """Follows the log of one tenant at a time."""

    def __init__(self, redis: Redis, database: Database) -> None:
        self._redis = redis
        self._database = database
