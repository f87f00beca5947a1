from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

import pytest
from tests.integration.audit.logs import Log, happened
from tests.integration.cli.commands import Trunkline

from trunkline.audit.anchors import Anchors
from trunkline.audit.query import standing
from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.streams.client import Redis


@pytest.fixture
def trunkline(capfdbinary: pytest.CaptureFixture[bytes]) -> Trunkline:
    # Copies are bytes; what is found wrong with a log is what a command answers that fails.
    def read() -> tuple[str, str]:
        out, err = capfdbinary.readouterr()
        return out.decode(), err.decode()

    made = Trunkline(read, on_output=(0, 1))
    made("tenant", "create", "acme")
    return made


def call_tools(settings: Settings, tenant_id: str, count: int, **changes: Any) -> None:
    """Record tool calls of a tenant, and keep its head in Redis, as the writer does."""

    async def append() -> None:
        database, redis = Database(settings.database_url, process="test"), Redis(settings, "worker")
        log = Log(settings, database, tenant_id)
        await log.append([happened(tenant=tenant_id, **changes) for _ in range(count)])
        there = await standing(database, tenant_id)
        assert there is not None
        await Anchors(redis, log.sealer).keep(there.head)
        await database.aclose()
        await redis.aclose()

    asyncio.run(append())


def tamper(settings: Settings, *statements: str) -> None:
    async def run() -> None:
        database = Database(settings.database_url, process="test")
        await Log(settings, database).tamper(*statements)
        await database.aclose()

    asyncio.run(run())


def acme(trunkline: Trunkline) -> str:
    return str(trunkline.rows("tenant", "list")[0]["id"])


def test_a_log_is_verified_and_what_was_changed_is_found(trunkline, settings):
    call_tools(settings, acme(trunkline), 30)
    said = trunkline("audit", "verify", "acme")
    assert "entries, all as they were written." in said
    trunkline("tenant", "create", "gone")
    gone = next(row["id"] for row in trunkline.rows("tenant", "list") if row["slug"] == "gone")
    trunkline("tenant", "delete", "gone")
    everything = {report["name"]: report for report in trunkline.rows("audit", "verify", "--all")}
    assert everything[gone]["entries"] == 2
    assert everything.keys() >= {"acme", "-"}
    tamper(settings, "UPDATE audit_events SET outcome = 'error' WHERE seq = 20 AND action = 'tools/call'")
    assert "changed: Entry 20 (tools/call)" in trunkline("audit", "verify", "acme", code=1)
    (report,) = trunkline.rows("audit", "verify", "acme", code=1)
    assert [finding["kind"] for finding in report["findings"]] == ["changed"]


def test_an_old_state_of_the_database_put_back_is_found(trunkline, settings):
    tenant = acme(trunkline)
    call_tools(settings, tenant, 5)
    tamper(settings, "CREATE TABLE saved AS SELECT * FROM audit_heads")
    call_tools(settings, tenant, 5)
    tamper(
        settings,
        "DELETE FROM audit_events e USING saved s WHERE e.tenant_id = s.tenant_id AND e.seq > s.seq",
        "UPDATE audit_heads h SET seq = s.seq, hash = s.hash, recorded_at = s.recorded_at, mac = s.mac FROM saved s "
        "WHERE s.tenant_id = h.tenant_id",
    )
    assert "cut off:" in trunkline("audit", "verify", "acme", code=1)


def test_a_copy_is_verified_without_the_deployment(trunkline, settings, tmp_path, monkeypatch):
    call_tools(settings, acme(trunkline), 30)
    signer = trunkline.rows("audit", "head", "acme")["signer"]
    trunkline("audit", "export", "acme", "--output", "copy.jsonl")
    lines = (tmp_path / "copy.jsonl").read_bytes().splitlines(keepends=True)
    assert trunkline("audit", "export", "acme").encode().splitlines()[: len(lines) - 1] == [
        line.rstrip(b"\n") for line in lines[:-1]
    ]
    for name in ("TRUNKLINE_SECRET_KEY", "TRUNKLINE_DATABASE_URL", "TRUNKLINE_REDIS_URL"):
        monkeypatch.delenv(name)
    assert "all as they were written" in trunkline("audit", "verify", "--file", "copy.jsonl", "--signer", signer)
    (tmp_path / "copy.jsonl").write_bytes(b"".join([*lines[:5], *lines[6:]]))
    assert "gap:" in trunkline("audit", "verify", "--file", "copy.jsonl", "--signer", signer, code=1)


def test_a_copy_as_csv_has_a_heading(trunkline, settings):
    call_tools(settings, acme(trunkline), 3)
    rows = list(csv.DictReader(io.StringIO(trunkline("audit", "export", "acme", "--format", "csv"))))
    assert [row["action"] for row in rows].count("tools/call") == 3


def test_the_log_is_asked_for_what_one_wants_to_know(trunkline, settings):
    tenant = acme(trunkline)
    call_tools(settings, tenant, 3, target="echo")
    call_tools(settings, tenant, 1, target="add", outcome="timeout")
    assert [row["target"] for row in trunkline.rows("audit", "query", "acme", "--outcome", "timeout")] == ["add"]
    assert len(trunkline.rows("audit", "query", "acme", "--action", "tools/*", "--limit", "2")) == 2
    assert trunkline.rows("audit", "query", "acme", "--to", "2020-01-01") == []
    assert "OCCURRED AT" in trunkline("audit", "query", "acme")


def test_usage_is_shown_for_people_and_programs(trunkline, settings):
    call_tools(settings, acme(trunkline), 3, target="echo", compute_us=1_500)
    (row,) = trunkline.rows("usage", "acme", "--by", "tool")
    assert (row["tool"], row["calls"], row["compute_ms"]) == ("echo", 3, 4.5)
    heading, line = trunkline("usage", "acme", "--by", "key,tool", "--csv").splitlines()
    assert heading == "key,tool,calls,errors,compute_ms,bytes_in,bytes_out"
    assert line == "key_1,echo,3,0,4.5,300,600"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("audit", "verify"), "Say which tenants"),
        (("audit", "verify", "--file", "missing.jsonl", "--signer", "00" * 32), "cannot be read"),
        (("audit", "verify", "acme", "--signer", "zz"), "32 bytes in hex"),
        (("audit", "export", "acme", "--format", "xml"), "jsonl or csv"),
        (("audit", "query", "acme", "--from", "yesterday"), "is no time"),
        (("usage", "acme", "--by", "week"), "--by takes"),
        (("usage", "acme", "--from", "soon"), "is no day"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(trunkline, arguments, sentence):
    assert sentence in trunkline(*arguments, code=2)
