"""Postgres is away for minutes, under load."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from faults.deployment import Rig, require_own
from faults.oracles import Finding
from faults.pods import until
from faults.scenarios import Figures, scenario
from faults.steady import steady

_WRITTEN_WITHIN = 5.0
"""Seconds after the return within which the first audit event that waited must be written."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    away: float
    """Seconds."""
    clients: int
    calls_per_second: float


@scenario(
    "postgres-away",
    "Postgres stopped for minutes under load",
    "all calls of known keys answered; audit complete afterwards",
    small=Size(away=6, clients=20, calls_per_second=60),
    full=Size(away=180, clients=100, calls_per_second=100),
    needs_stores=True,
)
async def postgres_away(rig: Rig, size: Size) -> Figures:
    """Stop Postgres, start it again, with clients that call and others that come meanwhile."""
    store = require_own(rig.postgres)
    await rig.start()
    clients = await rig.many_clients(size.clients)
    rig.remember()
    async with steady(rig, clients, size.calls_per_second):
        await asyncio.sleep(1.0)
        began = time.monotonic()
        await asyncio.to_thread(store.stop)
        clients += await rig.many_clients(max(size.clients // 5, 1))
        for client in clients[size.clients :]:
            await client.call("once")
        await asyncio.sleep(max(began + size.away - time.monotonic(), 0))
        waiting = await _unwritten(rig)
        await store.come_back()
        back = time.monotonic()

        async def is_written() -> bool:
            return await _unwritten(rig) < waiting

        await until(is_written, what="audit events to be written again")
        written_after = time.monotonic() - back
    calls = rig.ledger.tool_calls
    failed = [call for call in calls if call.outcome != "result"]
    refused = {kind: count for kind, count in rig.ledger.refusals.items() if kind.startswith(("POST", "GET"))}
    return Figures(
        f"Postgres was away for {back - began:.0f} s; {size.clients} clients called, and "
        f"{len(clients) - size.clients} came meanwhile.",
        {
            "calls": len(calls),
            "outcomes": dict(rig.ledger.outcomes()),
            "audit events that waited": waiting,
            "written again after": f"{written_after:.1f} s",
        },
        (
            Finding("calls that failed", not failed, str(len(failed))),
            Finding("tries refused", not refused, str(refused or 0)),
            Finding(
                f"audit events written within {_WRITTEN_WITHIN:.0f} s of the return",
                written_after <= _WRITTEN_WITHIN,
                f"{written_after:.1f} s",
            ),
        ),
    )


async def _unwritten(rig: Rig) -> int:
    keys = rig.redis.keys
    return sum([int(await rig.redis.command("GET", keys.unwritten(lane)) or 0) for lane in range(keys.lanes)])
