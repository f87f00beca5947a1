"""A tenant's members and invitations."""

from __future__ import annotations

from trunkline.audit.record import Recorder
from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.passwords import Passwords


class Members:
    """A tenant's members and invitations."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        throttle: RedisThrottle,
        passwords: Passwords,
        recorder: Recorder,
    ) -> None:
        self._settings = settings
        self._database = database
        self._throttle = throttle
        self._passwords = passwords
        self._recorder = recorder
