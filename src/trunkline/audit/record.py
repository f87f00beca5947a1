"""Events of the control plane: in the transaction of the change that they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.by import By
from trunkline.audit.chain import Event, check_detail, microseconds
from trunkline.audit.heads import Heads
from trunkline.db import utcnow


class Recorder:
    """Adds events to the log, in the caller's transaction; the last thing that it does before its end."""

    def __init__(self, secret: SecretStr) -> None:
        self._secret = secret

    @cached_property
    def _heads(self) -> Heads:
        return Heads(self._secret)

    async def record(
        self,
        session: AsyncSession,
        tenant_id: str,
        action: str,
        *,
        by: By,
        target: str = "",
        outcome: str = "ok",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """One event. Detail holds text, whole numbers, booleans, lists and objects: no fractions, no secrets.

        It takes the lock of the tenant's head: call it last, once the rows of the change are flushed.

        Raises:
            ValueError: the detail has a fraction, or what is no JSON.
        """
        check_detail(detail or {})
        await session.flush()
        event = Event(
            tenant_id, uuid7().hex, microseconds(utcnow()), by.kind, by.id or None, by.address or None, action,
            target or None, None, outcome, None, 0, 0, 0, None, None, None, None, dict(detail or {}),
        )  # fmt: skip
        await self._heads.append(session, [event])
