"""What members, and keys, may do at a tenant: the one table, which the control plane, its tests and its page read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

from trunkline.tenants.model import SCOPE_CALL, SCOPE_READ

Role = Literal["owner", "admin", "developer", "auditor"]
"""What a member is at a tenant."""
Permission = Literal[
    "tenant:read",
    "tenant:update",
    "tenant:delete",
    "members:read",
    "members:manage",
    "keys:read",
    "keys:manage",
    "toolsets:read",
    "toolsets:manage",
    "limits:read",
    "usage:read",
    "audit:read",
]
"""What a route of a tenant may ask for."""

PERMISSIONS: Final[tuple[Permission, ...]] = get_args(Permission)

_OWNER: Final = frozenset(PERMISSIONS)
_ADMIN: Final = _OWNER - {"tenant:delete"}
_DEVELOPER: Final = _ADMIN - {"tenant:update", "members:manage", "audit:read"}

ROLES: Final[dict[Role, frozenset[Permission]]] = {
    "owner": _OWNER,
    "admin": _ADMIN,
    "developer": _DEVELOPER,
    "auditor": frozenset(permission for permission in _ADMIN if permission.endswith(":read")),
}
"""By role, what it may do. Besides: only owners make, change and remove owners; a developer manages its own keys."""

SCOPE_PERMISSIONS: Final[dict[str, frozenset[Permission]]] = {
    SCOPE_CALL: frozenset(),
    SCOPE_READ: frozenset(),
    "tenant:read": frozenset({"tenant:read", "members:read", "toolsets:read"}),
    "tenant:admin": _OWNER - {"tenant:delete", "members:manage", "audit:read"},
    "keys:manage": frozenset({"tenant:read", "keys:read", "keys:manage"}),
    "audit:read": frozenset({"tenant:read", "audit:read"}),
    "usage:read": frozenset({"tenant:read", "usage:read", "limits:read"}),
}
"""By scope of a key, what the key may do here; the scopes of the message path allow nothing."""

_MCP: Final = frozenset({SCOPE_CALL, SCOPE_READ})
_GRANTABLE: Final[dict[Role, frozenset[str]]] = {
    "owner": frozenset(SCOPE_PERMISSIONS),
    "admin": frozenset(SCOPE_PERMISSIONS),
    "developer": _MCP,
    "auditor": frozenset(),
}


def of_scopes(scopes: Iterable[str]) -> frozenset[Permission]:
    """What a key with these scopes may do here."""
    return frozenset().union(*(SCOPE_PERMISSIONS.get(scope, frozenset()) for scope in scopes))


def grantable_by_role(role: Role) -> frozenset[str]:
    """The scopes of keys that a member may issue."""
    return _GRANTABLE[role]


def grantable_by_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes of keys that a key may issue: those of the message path, and what it may do itself."""
    own = frozenset(scopes)
    if "tenant:admin" in own:
        mine = of_scopes(own)
        return _MCP | own | {scope for scope, allows in SCOPE_PERMISSIONS.items() if allows <= mine}
    return _MCP if "keys:manage" in own else frozenset()


def may_make(role: Role, other: Role) -> bool:
    """Whether a member of `role` may give, change or take away `other`: only owners do that with owners."""
    return "members:manage" in ROLES[role] and (role == "owner" or other != "owner")


def holders(permission: Permission) -> str:
    """Who has a permission, in words for a refusal."""
    return ", ".join(role for role, allowed in ROLES.items() if permission in allowed)
