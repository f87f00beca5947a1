from __future__ import annotations

import io

from tests.control import PASSWORD

from trunkline.tenants.roles import PERMISSIONS, ROLES


def test_an_operator_is_made_with_a_password_that_is_shown_nowhere(trunkline, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    said = trunkline("operator", "create", "Root@Example.com", "--name", "Root", "--password-stdin")
    assert PASSWORD not in said
    (operator,) = trunkline.rows("operator", "list")
    assert (operator["email"], operator["name"], operator["state"]) == ("root@example.com", "Root", "active")
    trunkline("operator", "disable", "root@example.com")
    (operator,) = trunkline.rows("operator", "list")
    assert operator["state"] == "disabled"
    assert "no operator" in trunkline("operator", "disable", "nobody@example.com", code=1)


def test_a_password_that_is_too_short_makes_no_operator(trunkline, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))
    said = trunkline("operator", "create", "root@example.com", "--password-stdin", code=2)
    assert "12" in said
    assert "hunter2" not in said
    assert trunkline.rows("operator", "list") == []


def test_a_code_to_sign_up_with_is_shown_once(trunkline):
    assert trunkline("signup-code", "create", "--quiet").startswith("tlc_")
    assert trunkline("signup-code", "create", "--email", "ada@example.com").startswith("tlc_")


def test_members_are_invited_from_the_command_line(trunkline):
    trunkline("tenant", "create", "acme")
    link = trunkline("member", "invite", "acme", "ada@example.com", "--role", "owner").strip()
    assert link.startswith("http://127.0.0.1:8000/invite#tli_")
    assert trunkline.rows("member", "list", "acme") == []
    assert "no member" in trunkline("member", "remove", "acme", "ada@example.com", code=1)
    assert "role is one of" in trunkline("member", "invite", "acme", "ada@example.com", "--role", "king", code=2)


def test_the_table_of_permissions_is_printed(trunkline):
    rows = trunkline.rows("permissions")
    assert [row["permission"] for row in rows] == list(PERMISSIONS)
    for row in rows:
        assert {role: row[role] for role in ROLES} == {
            role: row["permission"] in allowed for role, allowed in ROLES.items()
        }


def test_an_operator_gets_a_new_password(trunkline, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\nanother {PASSWORD}\nshort\n"))
    trunkline("operator", "create", "root@example.com", "--password-stdin")
    assert PASSWORD not in trunkline("operator", "password", "root@example.com", "--password-stdin")
    trunkline("operator", "password", "root@example.com", "--password-stdin", code=2)


def test_users_are_locked_unlocked_and_get_a_new_password(trunkline):
    for command in ("disable", "enable", "reset"):
        assert "no user" in trunkline("user", command, "nobody@example.com", code=1)
