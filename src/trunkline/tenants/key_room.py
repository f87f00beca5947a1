"""Keys of a tenant, taken together: how many there may be, and those that a member leaves behind.

Every pod holds the revoked ones in memory until they expire.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import Conflict
from trunkline.tenants.tables import KeyRow, TenantRow


async def check_room(session: AsyncSession, tenant_id: str, most: int) -> None:
    """Refuse a key too many, in the transaction that adds it; others of the tenant wait for its end.

    Keys count until they expire, revoked ones, too: revoking makes no room, or there would be no bound.

    Raises:
        Conflict: the tenant has `most` keys that have not expired.
    """
    await session.execute(select(TenantRow.id).where(TenantRow.id == tenant_id).with_for_update(key_share=True))
    count = select(func.count()).where(KeyRow.tenant_id == tenant_id, KeyRow.expires_at > func.now())
    if (await session.scalar(count) or 0) >= most:
        raise Conflict(
            f"The tenant has {most} keys that have not expired, revoked ones included, and may have no more; wait "
            "until some expire, and give keys shorter lives."
        )


async def revoke_issued(session: AsyncSession, tenant_id: str, issuer: str, now: datetime) -> list[KeyRow]:
    """Revoke the keys that `issuer` (`user:<id>`) issued and that are good still, in the caller's transaction.

    Their events, and telling the pods, are the caller's.
    """
    query = select(KeyRow).where(
        KeyRow.tenant_id == tenant_id,
        KeyRow.created_by == issuer,
        KeyRow.expires_at > now,
        or_(KeyRow.revoked_at.is_(None), KeyRow.revoked_at > now),
    )
    rows = list(await session.scalars(query.order_by(KeyRow.id).with_for_update()))
    for row in rows:
        row.revoked_at = now
    await session.flush()
    return rows
