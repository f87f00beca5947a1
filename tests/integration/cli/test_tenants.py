from __future__ import annotations

import json
import re

import pytest
import redis

from trunkline.audit.seed import seed
from trunkline.cli import command
from trunkline.streams.keys import Keys


def test_a_tenant_lives_from_creation_to_deletion(trunkline):
    assert "http://127.0.0.1:8000/t/acme/sse" in trunkline("tenant", "create", "acme", "--name", "Acme Inc.")
    (tenant,) = trunkline.rows("tenant", "list")
    assert (tenant["slug"], tenant["name"], tenant["access"], tenant["status"]) == (
        "acme",
        "Acme Inc.",
        "key",
        "active",
    )
    trunkline("tenant", "set", "acme", "access=public", "rate=5", "in_flight=3")
    trunkline("tenant", "suspend", "acme")
    (tenant,) = trunkline.rows("tenant", "list")
    assert (tenant["access"], tenant["rate"], tenant["in_flight"]) == ("public", 5.0, 3)
    assert tenant["status"] == "suspended"
    trunkline("tenant", "resume", "acme")
    assert trunkline.rows("tenant", "list")[0]["status"] == "active"
    trunkline("tenant", "delete", "acme")
    assert trunkline.rows("tenant", "list") == []


def test_tenants_are_listed_for_people(trunkline):
    trunkline("tenant", "create", "acme")
    heading, line = trunkline("tenant", "list").splitlines()
    assert heading.split()[:4] == ["SLUG", "NAME", "ACCESS", "STATUS"]
    assert line.split()[:4] == ["acme", "acme", "key", "active"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["tenant", "create", "Bad Name"], 2, "cannot be a tenant's name"),
        (["tenant", "create", "taken"], 1, "There is a tenant 'taken' already."),
        (["tenant", "set", "taken", "colour=red"], 2, "'colour' cannot be set"),
        (["tenant", "set", "taken", "access=secret"], 2, "access is key or public"),
        (["tenant", "suspend", "nobody"], 1, "There is no tenant 'nobody'."),
        (["tenant", "delete", "nobody"], 1, "There is no tenant 'nobody'."),
        (["toolset", "list", "nobody"], 1, "There is no tenant 'nobody'."),
        (["toolset", "disable", "taken", "demo"], 1, "no toolset 'demo'"),
        (["key", "issue", "nobody"], 1, "There is no tenant 'nobody'."),
        (["key", "issue", "taken", "--scope", "everything"], 2, "There is no scope 'everything'"),
        (["key", "issue", "taken", "--expires", "500d"], 2, "A key lives from"),
        (["key", "revoke", "key_0"], 1, "There is no key 'key_0'."),
    ],
)
def test_a_mistake_is_one_sentence(trunkline, arguments, code, sentence):
    trunkline("tenant", "create", "taken")
    printed = trunkline(*arguments, code=code)
    assert sentence in printed
    assert len(printed.splitlines()) == 1


def test_toolsets_are_switched_on_and_off(trunkline):
    trunkline("tenant", "create", "acme")
    assert "demo" in {row["toolset"] for row in trunkline.rows("toolset", "list")}
    trunkline("toolset", "enable", "acme", "demo")
    assert trunkline.rows("toolset", "list", "acme") == [{"toolset": "demo", "on": True}]
    trunkline("toolset", "disable", "acme", "demo")
    assert trunkline.rows("toolset", "list", "acme") == [{"toolset": "demo", "on": False}]


def test_switching_on_what_nobody_here_knows_is_done_and_said(trunkline, capsys):
    trunkline("tenant", "create", "acme")
    assert command.run(["toolset", "enable", "acme", "elsewhere"]) == 0
    assert "No MCP server called 'elsewhere' is known here" in capsys.readouterr().err


def test_a_key_is_issued_listed_rotated_and_revoked(trunkline):
    trunkline("tenant", "create", "acme")
    key = trunkline("key", "issue", "acme", "--name", "ci", "--tool", "ad*", "--expires", "30d", "--quiet")
    assert re.fullmatch(r"tlk_[\w.-]+\n", key)
    (listed,) = trunkline.rows("key", "list", "acme")
    assert (listed["name"], listed["tools"], listed["state"]) == ("ci", ["ad*"], "active")
    assert key.strip() not in json.dumps(listed)

    replaced = trunkline("key", "rotate", listed["id"], "--quiet")
    assert re.fullmatch(r"tlk_[\w.-]+\n", replaced)
    assert replaced != key
    states = {row["id"]: row["state"] for row in trunkline.rows("key", "list", "acme")}
    assert states[listed["id"]].startswith("ends ")

    trunkline("key", "revoke", listed["id"])
    states = {row["id"]: row["state"] for row in trunkline.rows("key", "list", "acme")}
    assert sorted(states.values()) == ["active", "revoked"]
    assert states[listed["id"]] == "revoked"


def test_a_new_key_is_alone_on_standard_output_and_explained_beside_it(trunkline, capsys):
    trunkline("tenant", "create", "acme")
    assert command.run(["key", "issue", "acme"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.split()) == 1
    assert "It is not shown again." in captured.err


def test_nothing_is_changed_while_redis_is_away(trunkline, monkeypatch, free_port):
    trunkline("tenant", "create", "acme")
    with monkeypatch.context() as away:
        away.setenv("TRUNKLINE_REDIS_URL", f"redis://127.0.0.1:{free_port}")
        assert "Redis" in trunkline("key", "issue", "acme", code=1)
        assert trunkline.rows("key", "list", "acme") == []


def test_a_postgres_that_is_away_is_one_sentence(trunkline, monkeypatch, free_port):
    monkeypatch.setenv("TRUNKLINE_DATABASE_URL", f"postgresql://trunkline@127.0.0.1:{free_port}/trunkline")
    assert trunkline("tenant", "list", code=1).startswith("Postgres cannot be reached")


def test_migrate_on_a_migrated_database_changes_nothing(trunkline):
    assert "newest schema" in trunkline("migrate")
    assert "newest schema" in trunkline("migrate")


def test_calls_that_were_set_aside_are_listed_with_what_they_cost(trunkline, settings):
    trunkline("tenant", "create", "acme")
    trunkline("tenant", "create", "other")
    (tenant,) = [each for each in trunkline.rows("tenant", "list") if each["slug"] == "acme"]
    keys = Keys(settings)
    stream = keys.parked(keys.lane_of(tenant["id"]))
    fields = {
        "call": "c" * 32,
        "tenant": tenant["id"],
        "session": "s1",
        "workers": "w1 w2 w3",
        "e": seed(actor="", pod="api-1", target="leave", arguments={}, size=90),
    }
    with redis.Redis.from_url(settings.redis_url) as client:
        client.xadd(stream, fields)
    (parked,) = trunkline.rows("calls", "parked", "acme")
    assert (parked["tool"], parked["call"], parked["workers"]) == ("leave", "c" * 32, ["w1", "w2", "w3"])
    assert trunkline.rows("calls", "parked") == [parked]
    assert trunkline.rows("calls", "parked", "other") == []
    assert "w1,w2,w3" in trunkline("calls", "parked")
    assert trunkline("calls", "parked", "nobody", code=1) == "There is no tenant 'nobody'.\n"
