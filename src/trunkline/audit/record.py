"""Events of the control plane: in the transaction of the change that they tell of."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from trunkline.audit.by import By
from trunkline.audit.models import AuditEvent
from trunkline.db import utcnow


class Recorder:
    """Adds events to the log, in the caller's transaction; the last thing that it does before its end."""

    def __init__(self, secret: SecretStr) -> None:
        self._secret = secret

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
            ValueError: the detail has a fraction.
        """
        _check(detail or {})
        event = AuditEvent(
            id=uuid7().hex,
            occurred_at=utcnow(),
            tenant_id=tenant_id,
            actor=by.id or None,
            action=action,
            target=target or None,
            outcome=outcome,
            detail={**(detail or {}), "by": by.kind, "address": by.address},
        )
        await session.flush()
        session.add(event)
        await session.flush()


def _check(value: object) -> None:
    if isinstance(value, float):
        raise ValueError("the detail of an audit event has no fractions: JSON would not give them back as they were")
    if isinstance(value, Mapping):
        for each in value.values():
            _check(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check(each)
