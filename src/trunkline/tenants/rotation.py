"""The keys that sign API keys: listed, rotated, retired."""

from __future__ import annotations

from trunkline.audit.record import Recorder
from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.streams.client import Redis


class SigningKeys:
    """The keys that sign API keys: listed, rotated, retired."""

    def __init__(self, settings: Settings, database: Database, redis: Redis, recorder: Recorder) -> None:
        self._settings = settings
        self._database = database
        self._redis = redis
        self._recorder = recorder
