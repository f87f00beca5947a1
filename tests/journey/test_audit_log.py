"""Each tool call is one row of the audit log, with how it ended and nothing of what it was given."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.audit.logs import Log
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import connect
from tests.stores import as_owner

from trunkline.audit.seed import arguments_hash
from trunkline.db import Database
from trunkline.worker.run import WorkerProcess

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
CANARY = "canary-4d1f"


async def rows(platform: Platform, action: str = "tools/call") -> list[dict[str, Any]]:
    query = "SELECT * FROM audit_events WHERE action = $1 ORDER BY occurred_at, id"
    return [dict(row) for row in await as_owner(platform.settings.database_url, query, action)]


async def rows_when_written(platform: Platform, worker: WorkerProcess) -> list[dict[str, Any]]:
    """The rows after a worker has stopped: it writes what waits before it ends."""
    await platform.stop(worker)
    return await rows(platform)


async def test_a_tool_call_is_one_row_that_says_who_what_where_and_how_long(platform: Platform) -> None:
    api = await platform.api()
    worker = await platform.worker()
    (key,) = await platform.keys.list("demo")
    tenant = await platform.tenants.get("demo")
    arguments = {"text": CANARY}
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        await stream.request("ping")
        await stream.request("tools/list")
        await stream.call("echo", arguments)
    (row,) = await rows_when_written(platform, worker)
    assert (row["tenant_id"].hex, row["actor"], row["target"]) == (tenant.id, key.id, "echo")
    assert (row["outcome"], row["session_id"], row["request_id"]) == ("ok", stream.session, "3")
    assert row["arguments_hash"] == arguments_hash(arguments).hex()
    assert (row["api_pod"], row["worker_pod"]) == ("api-0", "worker-1")
    assert 0 <= row["duration_ms"] < 15_000
    assert CANARY not in str(row)


async def test_every_way_in_which_a_call_ends_has_its_outcome(platform: Platform, gate: Gate) -> None:
    api = await platform.api(call_timeout=1.0)
    worker = await platform.workshop(call_timeout=1.0)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        await stream.call("echo", {"text": "x"})
        await stream.call("fail")
        await stream.request("tools/call", {"name": "refuse", "arguments": {"text": "no"}})
        await stream.request("tools/call", {"name": "nothing"})
        cancelled = await stream.send("tools/call", {"name": "wait", "arguments": {"gate": gate.name}})
        await gate.until(inside=1)
        await stream.notify("notifications/cancelled", {"requestId": cancelled})
        await gate.until(inside=0)
        await stream.request("tools/call", {"name": "wait", "arguments": {"gate": gate.name}})
    outcomes = {
        (row["target"], row["request_id"]): row["outcome"] for row in await rows_when_written(platform, worker)
    }
    assert list(outcomes.values()) == ["ok", "tool_error", "error", "error", "cancelled", "timeout"]
    assert list(outcomes)[-1] == ("wait", "6")


async def test_calls_that_no_worker_takes_have_their_row_too(platform: Platform) -> None:
    api = await platform.api(call_timeout=0.2)
    async with connect(api, key=platform.key) as stream:
        await stream.send("tools/call", {"name": "echo", "arguments": {"text": "x"}})
        worker = await platform.worker(call_timeout=0.2)
        assert "id" in (await stream.event()).message
    (row,) = await rows_when_written(platform, worker)
    assert row["target"] == "echo"


async def test_of_a_public_caller_the_row_names_no_key_and_of_a_refused_call_there_is_none(
    platform: Platform,
) -> None:
    await platform.tenants.set("demo", {"access": "public"})
    reader, _ = await platform.keys.issue("demo", scopes=["mcp:read"])
    api = await platform.api()
    worker = await platform.worker()
    async with connect(api) as anyone, connect(api, key=reader) as reading:
        await anyone.initialize()
        await anyone.call("echo", {"text": "x"})
        body = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "echo"}}
        assert (await reading.post(body)).status_code == 403
        # A name that no database takes is kept as far as it can be.
        await anyone.request("tools/call", {"name": "\0" + "n" * 500, "arguments": {}})
    first, second = await rows_when_written(platform, worker)
    assert first["actor"] is None
    assert second["target"] == "\ufffd" + "n" * 127


async def test_two_workers_write_each_call_once(platform: Platform) -> None:
    api = await platform.api()
    workers = [await platform.worker(), await platform.worker()]
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for number in range(20):
            await stream.call("add", {"a": number, "b": 0})
    for worker in workers:
        await platform.stop(worker)
    found = await rows(platform)
    assert sorted(int(row["request_id"]) for row in found) == list(range(1, 21))


async def test_events_of_keys_are_rows(platform: Platform) -> None:
    _, record = await platform.keys.issue("demo", name="another")
    await platform.keys.revoke(record.id)

    async def written() -> bool:
        return bool(await rows(platform, "key.revoke"))

    await eventually(written)
    assert record.id in {row["target"] for row in await rows(platform, "key.issue")}
    assert [row["target"] for row in await rows(platform, "key.revoke")] == [record.id]


async def test_a_row_says_how_long_the_tool_ran_and_how_much_came_and_went(platform: Platform) -> None:
    api = await platform.api()
    worker = await platform.worker()
    text = "x" * 1_000
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        await stream.call("echo", {"text": text})
        await stream.request("tools/call", {"name": "nothing"})
    echoed, refused = await rows_when_written(platform, worker)
    assert 0 < echoed["compute_us"] <= (echoed["duration_ms"] + 1) * 1_000
    assert 1_000 < echoed["bytes_in"] < 1_200
    assert 1_000 < echoed["bytes_out"] < 1_000 + 1_200
    assert refused["bytes_in"] < 200
    assert 0 < refused["bytes_out"] < 400


async def test_usage_is_the_sum_of_the_rows_and_the_chain_is_intact(platform: Platform, gate: Gate) -> None:
    api = await platform.api(call_timeout=1.0)
    worker = await platform.workshop(call_timeout=1.0)
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for number in range(5):
            await stream.call("echo", {"text": "x" * number})
        await stream.call("fail")
        await stream.request("tools/call", {"name": "wait", "arguments": {"gate": gate.name}})
    written = await rows_when_written(platform, worker)
    used = await as_owner(platform.settings.database_url, "SELECT * FROM usage_daily", task="audit")
    names = ("compute_us", "bytes_in", "bytes_out")
    expected: dict[str, list[int]] = {}
    for row in written:
        sums = expected.setdefault(row["target"], [0, 0, 0, 0, 0])
        sums[:] = map(sum, zip(sums, (1, row["outcome"] != "ok", *(row[name] for name in names)), strict=True))
    assert {row["tool"]: [row["calls"], row["errors"], *(row[name] for name in names)] for row in used} == expected
    assert {tool: sums[:2] for tool, sums in expected.items()} == {"echo": [5, 0], "fail": [1, 1], "wait": [1, 1]}
    database = Database(platform.settings.database_url, process="test")
    tenant = await platform.tenants.get("demo")
    report = await Log(platform.settings, database, tenant.id).verify()
    await database.aclose()
    assert report.intact, report.findings
