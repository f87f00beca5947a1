"""What a new API key may be: how its options are read, checked, and narrowed, and the claims that they become."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network

from trunkline.errors import UsageError
from trunkline.settings import Settings
from trunkline.tenants.addresses import check_addresses, covers
from trunkline.tenants.limits import KeyLimits
from trunkline.tenants.model import check_scopes
from trunkline.tenants.patterns import check_tools, patterns_cover
from trunkline.tenants.settable import check_name
from trunkline.tenants.tables import KeyRow, TenantRow

DEFAULT_LIFETIME = timedelta(days=90)
SHORTEST_LIFETIME = timedelta(minutes=1)
LONGEST_LIFETIME = timedelta(days=366)

_DURATION = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(value: str) -> timedelta:
    """Read `90d`, `24h`, `30m`, `45s` or `2w`.

    Raises:
        UsageError: it is not of that form.
    """
    found = _DURATION.fullmatch(value)
    if found is None:
        raise UsageError(f"{value!r} is not a duration; write a number and s, m, h, d or w, such as 90d.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def check_lifetime(lifetime: timedelta, longest: timedelta = LONGEST_LIFETIME) -> timedelta:
    """Give a key's lifetime back.

    Raises:
        UsageError: it is too short or too long.
    """
    if not SHORTEST_LIFETIME <= lifetime <= longest:
        days = longest / timedelta(days=1)
        raise UsageError(f"A key lives from 1 minute (1m) to {days:g} days ({days:g}d).")
    return lifetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new key is to be, checked."""

    name: str
    scopes: tuple[str, ...]
    tools: tuple[str, ...]
    lifetime: timedelta
    addresses: tuple[str, ...] = ()
    """Ranges from which it may be used; everywhere where there are none."""
    limits: KeyLimits | None = None

    @classmethod
    def of(
        cls,
        *,
        name: str = "",
        scopes: Iterable[str] = (),
        tools: Iterable[str] = (),
        addresses: Iterable[str] = (),
        limits: KeyLimits | None = None,
        lifetime: timedelta = DEFAULT_LIFETIME,
        longest: timedelta = LONGEST_LIFETIME,
    ) -> Wanted:
        """Check everything; no scopes means those of the message path, no tool patterns means every tool.

        Raises:
            UsageError: one of them cannot be.
        """
        return cls(
            check_name(name or "key"),
            check_scopes(scopes),
            check_tools(tools),
            check_lifetime(lifetime, longest),
            check_addresses(addresses),
            None if limits is None else limits.check(),
        )

    def within(self, other: Wanted) -> bool:
        """Whether this may be used for nothing, and from nowhere, that `other` may not be; lifetimes aside."""
        return (
            set(self.scopes) <= set(other.scopes)
            and patterns_cover(other.tools, self.tools)
            and covers([ip_network(each) for each in other.addresses], [ip_network(each) for each in self.addresses])
            and (self.limits or KeyLimits()).within(other.limits)
        )


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What a rotated key has otherwise than the one before; None for the same."""

    tools: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    limits: KeyLimits | None = None
    lifetime: timedelta | None = None

    def apply(self, old: Wanted) -> Wanted:
        """What the new key is to be.

        Raises:
            UsageError: it would be wider than the old one, or cannot be.
        """
        changed = replace(
            old,
            tools=old.tools if self.tools is None else check_tools(self.tools),
            addresses=old.addresses if self.addresses is None else check_addresses(self.addresses),
            limits=old.limits if self.limits is None else self.limits.check(),
            lifetime=old.lifetime if self.lifetime is None else check_lifetime(self.lifetime),
        )
        if not changed.within(old) or changed.lifetime > old.lifetime:
            raise UsageError(
                "Rotation can only narrow a key: fewer tools and addresses, lower limits, a shorter life."
            )
        return changed


def wanted_of(row: KeyRow) -> Wanted:
    """A key like that one."""
    limits = KeyLimits(**row.limits) if row.limits else None
    lifetime = row.expires_at - row.created_at
    return Wanted(row.name, tuple(row.scopes), tuple(row.tools), lifetime, tuple(row.addresses), limits)


def grants_of(row: KeyRow) -> dict[str, object]:
    """What a key may do, for the log."""
    said: dict[str, object] = {"scopes": row.scopes, "tools": row.tools, "expires_at": row.expires_at.isoformat()}
    if row.addresses:
        said["addresses"] = row.addresses
    if row.limits:
        said["limits"] = {name: f"{value:g}" for name, value in row.limits.items()}
    return said


def claims_of(settings: Settings, tenant: TenantRow, row: KeyRow) -> dict[str, object]:
    """What a key claims."""
    claims: dict[str, object] = {
        "iss": settings.public_url,
        "aud": settings.tenant_url(tenant.slug),
        "tenant": tenant.id,
        "slug": tenant.slug,
        "jti": row.id,
        "scope": " ".join(row.scopes),
        "tools": row.tools,
        "iat": int(row.created_at.timestamp()),
        "exp": int(row.expires_at.timestamp()),
    }
    if row.addresses:
        claims["net"] = row.addresses
    if row.limits:
        claims["lim"] = row.limits
    return claims
