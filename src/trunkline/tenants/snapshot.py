"""A tenant as it is kept in Redis: what the row holds, so that a deployment's defaults stay its own."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from trunkline.settings import Settings
from trunkline.tenants.limits import Quotas
from trunkline.tenants.model import Limits, Tenant, ToolsetSwitch
from trunkline.tenants.tables import TenantRow, ToolsetRow

TOMBSTONE = b"null"
"""The snapshot of a tenant that was deleted."""


def default_limits(settings: Settings) -> Limits:
    """The limits of a tenant that has none of its own."""
    return Limits(settings.tenant_rate, settings.tenant_burst, settings.tenant_in_flight, settings.tenant_sessions)


def encode(row: TenantRow, toolsets: Iterable[ToolsetRow]) -> bytes:
    """The tenant's snapshot as of `row.version`; `toolsets` are in the order of their position."""
    return orjson.dumps(
        {
            "id": row.id,
            "slug": row.slug,
            "name": row.name,
            "access": row.access,
            "status": row.status,
            "limits": [row.rate, row.burst, row.in_flight, row.sessions],
            "quotas": [row.monthly_calls, row.monthly_calls_soft, row.monthly_compute, row.monthly_compute_soft],
            "toolsets": [_toolset(toolset) for toolset in toolsets],
            "version": row.version,
        }
    )


def _toolset(row: ToolsetRow) -> list[str | bool | int]:
    return [row.name, row.enabled, row.config_version] if row.config_version else [row.name, row.enabled]


def decode(snapshot: bytes, defaults: Limits) -> Tenant | None:
    """The tenant that a snapshot holds; None if it was deleted."""
    fields = orjson.loads(snapshot)
    if fields is None:
        return None
    rate, burst, in_flight, sessions = fields["limits"]
    return Tenant(
        id=fields["id"],
        slug=fields["slug"],
        name=fields["name"],
        access=fields["access"],
        status=fields["status"],
        limits=Limits(
            defaults.rate if rate is None else rate,
            defaults.burst if burst is None else burst,
            defaults.in_flight if in_flight is None else in_flight,
            defaults.sessions if sessions is None else sessions,
        ),
        toolsets=tuple(ToolsetSwitch(name, enabled) for name, enabled, *_ in fields["toolsets"]),
        configured=tuple((name, *version) for name, enabled, *version in fields["toolsets"] if enabled and version),
        version=fields["version"],
        quotas=Quotas(*fields.get("quotas", ())),
    )


def suspended(snapshot: bytes, version: int) -> tuple[str, int, bytes]:
    """A snapshot with nothing changed but that the tenant is suspended; its id and new version before it."""
    fields = orjson.loads(snapshot)
    fields |= {"status": "suspended", "version": max(version, fields["version"] + 1)}
    return fields["id"], fields["version"], orjson.dumps(fields)


def version_of(snapshot: bytes) -> int:
    """The version that a snapshot holds; 0 for a deleted tenant's."""
    fields = orjson.loads(snapshot)
    return 0 if fields is None else int(fields["version"])
