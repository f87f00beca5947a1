"""What is known of an API key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from trunkline.tenants.key_options import Wanted
from trunkline.tenants.limits import KeyLimits
from trunkline.tenants.tables import KeyRow

State = Literal["active", "ending", "revoked", "expired"]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key; the key itself is nowhere."""

    id: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    tools: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    """From when on it is refused; in the future while a rotation overlaps."""
    last_used_at: datetime | None
    """To about half a minute."""
    replaced_by: str | None
    addresses: tuple[str, ...] = ()
    limits: KeyLimits | None = None
    created_by: str = ""
    """Kind and id of who issued it, as `user:<id>`; empty where that was not noted."""

    def state(self, now: datetime) -> State:
        """What a person wants to know of it first; `ending` while a rotation overlaps."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        if self.expires_at <= now:
            return "expired"
        return "active" if self.revoked_at is None else "ending"

    @property
    def wanted(self) -> Wanted:
        """A key like this one."""
        lifetime = self.expires_at - self.created_at
        return Wanted(self.name, self.scopes, self.tools, lifetime, self.addresses, self.limits)


def record_of(row: KeyRow) -> KeyRecord:
    """What is known of a key, out of its row."""
    return KeyRecord(
        id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        scopes=tuple(row.scopes),
        tools=tuple(row.tools),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        replaced_by=row.replaced_by,
        addresses=tuple(row.addresses),
        limits=KeyLimits(**row.limits) if row.limits else None,
        created_by=row.created_by,
    )
