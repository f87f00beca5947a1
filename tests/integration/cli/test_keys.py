"""`trunkline key` and `trunkline signing`, with what keys are bound to, and with Postgres away."""

from __future__ import annotations

import os
import secrets

import pytest
from tests.integration.cli.commands import Trunkline


def test_a_key_is_bound_to_addresses_and_limits(trunkline: Trunkline) -> None:
    trunkline("tenant", "create", "acme")
    trunkline(
        "key", "issue", "acme", "--scope", "mcp:call", "--scope", "audit:read", "--address", "192.0.2.0/24",
        "--address", "2001:db8::/32", "--rate", "2.5", "--burst", "5", "--in-flight", "3", "--monthly-calls", "100",
        "--monthly-compute", "60", "--quiet",
    )  # fmt: skip
    (key,) = trunkline.rows("key", "list", "acme")
    assert key["addresses"] == ["192.0.2.0/24", "2001:db8::/32"]
    assert key["limits"] == {"rate": 2.5, "burst": 5, "in_flight": 3, "calls": 100, "compute": 60}
    assert key["scopes"] == ["audit:read", "mcp:call"]
    assert key["created_by"] == "operator:cli"
    assert key["last_used_at"] is None


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--address", "everywhere", "is not an address range"),
        ("--burst", "5", "goes with a rate"),
        ("--monthly-calls", "0", "monthly quota"),
        ("--scope", "mcp:all", "There is no scope"),
    ],
)
def test_what_a_key_cannot_be_is_said_in_one_sentence(
    trunkline: Trunkline, option: str, value: str, sentence: str
) -> None:
    trunkline("tenant", "create", "acme")
    said = trunkline("key", "issue", "acme", option, value, code=2)
    assert sentence in said
    assert "Traceback" not in said
    assert trunkline.rows("key", "list", "acme") == []


def test_quotas_of_a_tenant_are_set_shown_and_taken_away(trunkline: Trunkline) -> None:
    trunkline("tenant", "create", "acme")
    trunkline("tenant", "set", "acme", "monthly_calls=100", "monthly_calls_soft=80", "monthly_compute=60")
    (tenant,) = trunkline.rows("tenant", "list")
    assert (tenant["monthly_calls"], tenant["monthly_calls_soft"], tenant["monthly_compute"]) == (100, 80, 60)
    assert "soft quota of calls" in trunkline("tenant", "set", "acme", "monthly_calls=50", code=2)
    trunkline("tenant", "set", "acme", "monthly_calls=none", "monthly_calls_soft=default")
    assert trunkline.rows("tenant", "list")[0]["monthly_calls"] is None


def test_in_an_emergency_it_is_written_down_at_once_where_postgres_is_there(trunkline: Trunkline) -> None:
    trunkline("tenant", "create", "acme")
    trunkline("key", "issue", "acme", "--quiet")
    (key,) = trunkline.rows("key", "list", "acme")
    assert "Revoked key" in trunkline("key", "revoke", key["id"], "--emergency")
    assert trunkline.rows("key", "list", "acme")[0]["state"] == "revoked"
    assert "Suspended tenant" in trunkline("tenant", "suspend", "acme", "--emergency")
    assert trunkline.rows("tenant", "list")[0]["status"] == "suspended"
    assert "refused everywhere now" in trunkline("key", "revoke", "key_" + "0" * 32, "--emergency", code=1)


def test_in_an_emergency_pods_are_told_though_postgres_is_away(
    trunkline: Trunkline, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunkline("tenant", "create", "acme")
    trunkline("key", "issue", "acme", "--quiet")
    (key,) = trunkline.rows("key", "list", "acme")
    with monkeypatch.context() as away:
        away.setenv("TRUNKLINE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        assert "cannot be reached" in trunkline("key", "revoke", key["id"], code=1)
        assert "written down when Postgres is back" in trunkline("key", "revoke", key["id"], "--emergency")
        assert "written down when Postgres is back" in trunkline("tenant", "suspend", "acme", "--emergency")
    assert trunkline.rows("tenant", "list")[0]["status"] == "active", "as Postgres has it"
    trunkline("tenant", "set", "acme", "rate=5")
    assert trunkline.rows("tenant", "list")[0]["status"] == "suspended", "written down before anything else changes"


def test_signing_keys_are_listed_rotated_and_retired(trunkline: Trunkline) -> None:
    trunkline("tenant", "create", "acme")
    trunkline("key", "issue", "acme", "--quiet")
    (old,) = trunkline.rows("signing", "list")
    assert (old["state"], old["live_keys"]) == ("signs", 1)
    assert "Made signing key" in trunkline("signing", "rotate", "--ahead", "0s")
    new, before = trunkline.rows("signing", "list")
    assert (new["state"], before["state"], before["kid"]) == ("signs", "verifies", old["kid"])
    assert "hang on this key" in trunkline("signing", "retire", old["kid"], code=1)
    trunkline("signing", "retire", old["kid"], "--force")
    assert [key["state"] for key in trunkline.rows("signing", "list")] == ["signs", "retired"]
    assert "There is no signing key" in trunkline("signing", "retire", "nothing", code=1)
    assert "is not a duration" in trunkline("signing", "rotate", "--ahead", "soon", code=2)


def test_rewrapping_says_what_was_encrypted_anew(trunkline: Trunkline, monkeypatch: pytest.MonkeyPatch) -> None:
    trunkline("tenant", "create", "acme")
    trunkline("key", "issue", "acme", "--quiet")
    before = os.environ["TRUNKLINE_SECRET_KEY"]
    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", secrets.token_hex(32))
    assert "1 of them no key opens" in trunkline("secrets", "rewrap", code=1)
    monkeypatch.setenv("TRUNKLINE_OTHER_SECRET_KEYS", before)
    assert trunkline("secrets", "rewrap").startswith("Encrypted anew: 1 signing keys, 0 secrets of toolsets;")
    assert "Encrypted anew: 0 signing keys, 0 secrets" in trunkline("secrets", "rewrap")
    assert before not in trunkline("settings")
    monkeypatch.delenv("TRUNKLINE_OTHER_SECRET_KEYS")
    trunkline("key", "issue", "acme", "--quiet")
