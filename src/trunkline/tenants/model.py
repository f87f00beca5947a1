"""What every process knows of a tenant and of a caller: plain values, without a store behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trunkline.errors import UsageError
from trunkline.tenants.addresses import Network, contains
from trunkline.tenants.limits import NO_QUOTAS, KeyLimits, Quotas
from trunkline.tenants.patterns import ALL_TOOLS

Access = Literal["key", "public"]
"""Who may call: holders of the tenant's keys, or anyone."""
Status = Literal["active", "suspended"]

SCOPE_CALL = "mcp:call"
"""May call tools, besides everything that `mcp:read` allows."""
SCOPE_READ = "mcp:read"
"""May connect, list, and read resources and prompts."""
SCOPE_ADMIN = "tenant:admin"
"""May do on the control plane what an admin may, but for what concerns people."""
SCOPE_TENANT = "tenant:read"
"""May see the tenant, its members and its toolsets."""
SCOPE_KEYS = "keys:manage"
"""May list, issue, rotate and revoke keys, of the scopes `mcp:call` and `mcp:read`."""
SCOPE_AUDIT = "audit:read"
SCOPE_USAGE = "usage:read"
MESSAGE_SCOPES = frozenset({SCOPE_CALL, SCOPE_READ})
"""Those of the message path; a key with neither is for the control plane alone."""
SCOPES = MESSAGE_SCOPES | {SCOPE_ADMIN, SCOPE_TENANT, SCOPE_KEYS, SCOPE_AUDIT, SCOPE_USAGE}
DEFAULT_SCOPES = (SCOPE_CALL, SCOPE_READ)

_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RESERVED = """
    about abuse account admin administrator api app assets auth autoconfig billing blog cdn console dashboard
    dev docs download ftp health help hostmaster imap internal live livez localhost login logout mail
    mcp metrics mx ns ns1 ns2 oauth openapi ops pop postmaster readyz ready root security signup smtp sse ssl
    static status support system t trunkline v1 v2 webmaster well-known wpad www
"""
RESERVED_SLUGS = frozenset(_RESERVED.split())
"""Names that are, or may become, hosts and paths of the platform itself or of mail and proxies (RFC 2142)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may use at most: the bound between it and its neighbours."""

    rate: float
    """Messages a second."""
    burst: int
    """Messages at once."""
    in_flight: int
    """Requests accepted and not answered."""
    sessions: int
    """Live sessions."""


class ToolsetSwitch(NamedTuple):
    """A toolset that the tenant has or had switched on."""

    name: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as of `version`, which grows with every change of it or of its toolsets."""

    id: str
    """UUIDv7 as 32 hex characters."""
    slug: str
    name: str
    access: Access
    status: Status
    limits: Limits
    toolsets: tuple[ToolsetSwitch, ...]
    """In the order of first switching on, which names depend on: it stays when one is switched off and on."""
    version: int
    quotas: Quotas = NO_QUOTAS
    configured: tuple[tuple[str, int], ...] = ()
    """Those that are on and that it has configured, with the version of the configuration."""

    @property
    def enabled_toolsets(self) -> tuple[str, ...]:
        """Names of the toolsets that are on, in the order of first switching on."""
        return tuple(switch.name for switch in self.toolsets if switch.enabled)


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose key was verified, or anyone at a public tenant (then `key_id` is empty)."""

    tenant_id: str
    slug: str
    key_id: str
    scopes: frozenset[str]
    tools: tuple[str, ...]
    """Glob patterns of tool names; a tool that matches none of them does not exist for this caller."""
    expires_at: float
    """Seconds since the epoch; infinite for public access."""
    networks: tuple[Network, ...] = ()
    """Where the key may be used from; everywhere where there are none."""
    limits: KeyLimits | None = None
    """What the key may use, beside what its tenant may."""
    kid: str = ""
    """The signing key that it hangs on."""

    def allows(self, address: str) -> bool:
        """Whether the key may be used from this address."""
        return not self.networks or contains(self.networks, address)


def public_principal(tenant: Tenant) -> Principal:
    """The caller without a key of a tenant whose access is public."""
    return Principal(tenant.id, tenant.slug, "", MESSAGE_SCOPES, ALL_TOOLS, float("inf"))


def is_label(slug: str) -> bool:
    """Whether anything of that name can exist at all; cheap, for names that strangers send."""
    return _DNS_LABEL.fullmatch(slug) is not None


def check_slug(slug: str) -> str:
    """Give the slug back if a tenant may be called that: a DNS label (RFC 1123, 2.1), not reserved.

    Raises:
        UsageError: with the rule that it breaks.
    """
    if not is_label(slug):
        raise UsageError(
            f"{slug!r} cannot be a tenant's name: use 1 to 63 lower-case letters, digits and hyphens, "
            "with no hyphen at either end."
        )
    if slug[2:4] == "--":
        raise UsageError(
            f"{slug!r} cannot be a tenant's name: hyphens in third and fourth place are IDNA's (RFC 5891)."
        )
    if slug in RESERVED_SLUGS:
        raise UsageError(f"{slug!r} is reserved for the platform itself; choose another name for the tenant.")
    return slug


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Give the scopes back sorted and once each; none at all means all of the message path.

    Raises:
        UsageError: one of them does not exist.
    """
    wanted = sorted(set(scopes)) or list(DEFAULT_SCOPES)
    for scope in wanted:
        if scope not in SCOPES:
            raise UsageError(f"There is no scope {scope!r}; a key can have {', '.join(sorted(SCOPES))}.")
    return tuple(wanted)
