"""Redis dies and comes back, again and again, under load."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from faults.deployment import Rig, require_own
from faults.scenarios import Figures, scenario
from faults.steady import steady

_BETWEEN = (1.0, 4.0)
"""Seconds between two deaths, by chance."""
_AWAY = (0.0, 0.0, 0.5, 1.5, 5.0)
"""Seconds of which it stays away some, besides the time that its start takes; pods wait 3 s before they refuse."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    kills: int
    clients: int
    calls_per_second: float


@scenario(
    "redis-killed",
    "Redis killed and restarted again and again under load (AOF)",
    "oracles",
    small=Size(kills=3, clients=20, calls_per_second=60),
    full=Size(kills=30, clients=100, calls_per_second=200),
    needs_stores=True,
)
async def redis_killed(rig: Rig, size: Size) -> Figures:
    """Kill Redis, start it on the same data, and let the load go on meanwhile."""
    store = require_own(rig.redis_store)
    await rig.start()
    clients = await rig.many_clients(size.clients)
    rig.remember()
    async with steady(rig, clients, size.calls_per_second):
        for _ in range(size.kills):
            await asyncio.sleep(rig.random.uniform(*_BETWEEN))
            store.kill()
            await asyncio.sleep(rig.random.choice(_AWAY))
            await store.come_back()
        await asyncio.sleep(1.0)
    calls = rig.ledger.tool_calls
    lost = sum(call.fate == "accepted" and call.outcome != "result" for call in calls)
    return Figures(
        f"Redis was killed {size.kills} times and started on the same files (appendfsync everysec), "
        f"{size.clients} clients calling.",
        {
            "calls": len(calls),
            "outcomes": dict(rig.ledger.outcomes()),
            "refused tries": dict(rig.ledger.refusals),
            "sessions ended": dict(rig.ledger.ends),
            "accepted calls without a result": lost,
        },
    )
