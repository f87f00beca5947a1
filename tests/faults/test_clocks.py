"""Pods whose clocks are set by five minutes: nothing changes, for times that matter are Redis' or monotonic."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faults import oracles
from faults.deployment import Account, Rig, rigged
from faults.pods import Pod, until
from faults.stepped import STEP_VARIABLE
from sqlalchemy import text

from trunkline.db import task_scope
from trunkline.settings import Settings
from trunkline.tenants.keys import Keys

CALL_TIMEOUT = 2.0


async def stepped(rig: Rig, kind: str) -> Pod:
    """A pod whose clock can be set."""
    pod = rig._start(kind, 0, {}, (), "faults.stepped")
    await pod.ready()
    return pod


async def status_of(url: str, key: str) -> int:
    """What a pod answers to whoever opens a stream with that key."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET /t/demo/sse HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\naccept: text/event-stream"
    writer.write(f"{head}\r\n\r\n".encode())
    try:
        async with asyncio.timeout(5):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def audited_at(rig: Rig) -> list[datetime]:
    async with rig.database.transaction(task_scope("audit")) as session:
        return list(await session.scalars(text("SELECT occurred_at FROM audit_events WHERE action = 'tools/call'")))


@pytest.mark.parametrize("step", [300, -300])
async def test_a_clock_that_is_set_by_five_minutes_changes_nothing(
    step: int, settings: Settings, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STEP_VARIABLE, str(step))
    settings = settings.model_copy(update={"call_timeout": CALL_TIMEOUT, "call_timeout_max": 60.0})
    async with asyncio.timeout(60), rigged(directory, secrets.randbits(32), settings) as rig:
        await rig.tenant("demo")
        worker, api = await stepped(rig, "worker"), await stepped(rig, "api")
        keys = Keys(rig.settings, rig.database, rig.redis)
        before = await rig.client()
        assert (await before.call("once")).outcome == "result"
        short, _ = await keys.issue("demo", expires=timedelta(seconds=200))
        for pod in (worker, api):
            pod.signal(signal.SIGUSR1)
        began = datetime.now(UTC)

        # Calls, in sessions and with keys from before and from now; resumes.
        key, record = await keys.issue("demo")
        rig.accounts["new"] = Account("demo", rig.accounts["demo"].id, key)
        after = await rig.client("new")
        assert {(await client.call("once")).outcome for client in (before, after)} == {"result"}
        before.hang_up()
        assert (await before.call("repeatable")).outcome == "result"
        assert await status_of(api.url, short) == 200, "it has not expired"

        # Deadlines: not missed, not early.
        assert (await after.call("slow", seconds=CALL_TIMEOUT * 0.75)).outcome == "result"
        late = await after.call("slow", seconds=60)
        assert late.answer is not None
        assert late.answer.code == -32001
        assert CALL_TIMEOUT * 0.75 < late.took < CALL_TIMEOUT + 3

        # Revocation, for streams and for requests.
        await keys.revoke(record.id)
        revoked_at = time.monotonic()

        async def is_refused() -> bool:
            return await status_of(api.url, key) == 401 and not after.at

        await until(is_refused, 5)
        assert time.monotonic() - revoked_at < 3

        times = await _all_audited(rig, 6)
        assert all(abs((at - began).total_seconds()) < 60 for at in times), times
        rig.ledger.surprises.clear()  # the client of the revoked key does not understand why it is refused
        failed = [finding for finding in await oracles.consult(rig) if not finding.holds]
    assert not failed


async def _all_audited(rig: Rig, calls: int) -> list[datetime]:
    async def written() -> bool:
        return len(await audited_at(rig)) == calls

    await until(written, 10)
    return await audited_at(rig)
