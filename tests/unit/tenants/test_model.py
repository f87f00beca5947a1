from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import UsageError
from trunkline.tenants.model import (
    ALL_TOOLS,
    MESSAGE_SCOPES,
    RESERVED_SLUGS,
    SCOPES,
    Limits,
    Tenant,
    ToolsetSwitch,
    check_scopes,
    check_slug,
    public_principal,
)

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(LABELS)
def test_a_dns_label_is_a_slug_unless_it_is_reserved(label: str) -> None:
    if label in RESERVED_SLUGS or label[2:4] == "--":
        with pytest.raises(UsageError):
            check_slug(label)
    else:
        assert check_slug(label) == label


@pytest.mark.parametrize(
    "slug", ["", "-a", "a-", "A", "a_b", "a.b", "a b", "a" * 64, "ä", "a\n", "\u0661", "a/b", "..", "xn--a"]
)
def test_what_is_no_dns_label_is_no_slug(slug: str) -> None:
    with pytest.raises(UsageError, match="cannot be a tenant's name"):
        check_slug(slug)


@pytest.mark.parametrize("slug", ["www", "api", "admin", "console", "health", "metrics", "static", "v1", "docs"])
def test_names_of_the_platform_itself_are_reserved(slug: str) -> None:
    with pytest.raises(UsageError, match="reserved"):
        check_slug(slug)


def test_no_scopes_are_those_of_the_message_path_and_unknown_ones_are_refused() -> None:
    assert set(check_scopes([])) == MESSAGE_SCOPES
    assert set(check_scopes(SCOPES)) == SCOPES
    assert check_scopes(["mcp:read", "mcp:read"]) == ("mcp:read",)
    with pytest.raises(UsageError, match="There is no scope 'admin'"):
        check_scopes(["mcp:read", "admin"])


def test_anyone_at_a_public_tenant_has_no_key_and_no_expiry() -> None:
    switches = (ToolsetSwitch("b", True), ToolsetSwitch("a", False), ToolsetSwitch("c", True))
    tenant = Tenant("t" * 32, "acme", "Acme", "public", "active", Limits(1, 1, 1, 1), switches, 7)
    principal = public_principal(tenant)
    assert (principal.tenant_id, principal.slug, principal.key_id) == ("t" * 32, "acme", "")
    assert principal.scopes == MESSAGE_SCOPES
    assert principal.tools == ALL_TOOLS
    assert principal.expires_at == float("inf")
    assert tenant.enabled_toolsets == ("b", "c")
