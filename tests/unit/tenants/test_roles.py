from __future__ import annotations

from typing import get_args

from trunkline.tenants.roles import (
    PERMISSIONS,
    ROLES,
    SCOPE_PERMISSIONS,
    Role,
    grantable_by_role,
    grantable_by_scopes,
    holders,
    may_make,
    of_scopes,
)


def test_each_role_may_do_less_than_the_one_above_but_for_reading() -> None:
    assert set(ROLES) == set(get_args(Role))
    assert ROLES["owner"] == set(PERMISSIONS)
    assert ROLES["developer"] < ROLES["admin"] < ROLES["owner"]
    assert all(permission.endswith(":read") for permission in ROLES["auditor"])
    assert "audit:read" in ROLES["auditor"] - ROLES["developer"]


def test_no_key_deletes_a_tenant_or_manages_people() -> None:
    everything = of_scopes(SCOPE_PERMISSIONS)
    assert not everything & {"tenant:delete", "members:manage"}
    assert of_scopes({"mcp:call", "mcp:read"}) == frozenset()
    assert of_scopes({"what:ever"}) == frozenset()


def test_nobody_issues_a_key_that_may_do_more_than_they() -> None:
    for role, allowed in ROLES.items():
        for scope in grantable_by_role(role):
            assert SCOPE_PERMISSIONS[scope] <= allowed
    assert grantable_by_role("auditor") == frozenset()
    for scope in SCOPE_PERMISSIONS:
        for granted in grantable_by_scopes({scope}):
            assert SCOPE_PERMISSIONS[granted] <= of_scopes({scope})
    assert "audit:read" not in grantable_by_scopes({"tenant:admin"})
    assert grantable_by_scopes({"keys:manage"}) == {"mcp:call", "mcp:read"}


def test_only_owners_make_owners() -> None:
    assert may_make("owner", "owner")
    assert may_make("admin", "admin")
    assert not may_make("admin", "owner")
    assert not may_make("developer", "auditor")


def test_a_refusal_can_name_who_may() -> None:
    assert holders("audit:read") == "owner, admin, auditor"
