"""What tenants have used, by day, key and tool."""

from __future__ import annotations

from trunkline.db import Database


class UsageReader:
    """Reads usage for its tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database
