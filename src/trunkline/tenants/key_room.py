"""How many keys a tenant may have: every pod holds the revoked ones in memory until they expire."""

from __future__ import annotations

from sqlalchemy import func, select
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
