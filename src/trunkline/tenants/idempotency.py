"""What requests with an Idempotency-Key were answered."""

from __future__ import annotations

from pydantic import SecretStr

from trunkline.db import Database


class IdempotencyStore:
    """Keeps answers for a day, sealed: they may hold what is shown once."""

    def __init__(self, database: Database, secret: SecretStr) -> None:
        self._database = database
        self._secret = secret
