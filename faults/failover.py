"""Redis dies and a replica takes over, again and again, under load: with WAIT, and without."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from faults.deployment import Rig
from faults.oracles import AUDITED, EFFECTS, Finding
from faults.scenarios import Figures, scenario
from faults.sentinels import GuardedRedis
from faults.steady import steady
from trunkline.streams.client import Redis

_BETWEEN = (1.0, 3.0)
"""Seconds between two failovers, by chance."""
_BEHIND = (0.3, 1.2)
"""Seconds for which the replica has received nothing when the primary dies, by chance, every other time."""
_PATIENT = 20.0
"""Seconds that a call may take with WAIT: an answer waits until a replica is back."""
_IMPATIENT = 8.0
"""Seconds without: what Redis has lost is answered when its time is over, at the latest."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    failovers: int
    clients: int
    calls_per_second: float
    pods: int = 3
    """Of each kind."""


@scenario(
    "redis-failover",
    "the primary of Redis killed again and again under load, a replica taking over (Sentinel, WAIT for one replica)",
    "accepted, and no result: 0; oracles",
    small=Size(failovers=1, clients=12, calls_per_second=50, pods=2),
    full=Size(failovers=10, clients=60, calls_per_second=150),
    needs_stores=True,
)
async def redis_failover(rig: Rig, size: Size) -> Figures:
    """Kill the primary with WAIT configured: every accepted call must end with its result."""
    behind = await _fail_over(rig, size, call_timeout=_PATIENT, redis_wait_replicas=1)
    accepted = [call for call in rig.ledger.tool_calls if call.fate == "accepted"]
    lost = [call for call in accepted if call.outcome != "result"]
    figure = f"{len(lost)} of {len(accepted)}"
    return Figures(
        _done(size, behind, "WAIT for one replica"),
        _counts(rig),
        (Finding("accepted, and no result", not lost, figure),),
    )


@scenario(
    "redis-failover-unconfirmed",
    "the same without WAIT: what no replica had is lost, and answered with an error",
    "nothing but result and errors; oracles",
    small=Size(failovers=1, clients=12, calls_per_second=50, pods=2),
    full=Size(failovers=10, clients=60, calls_per_second=150),
    needs_stores=True,
    without=(EFFECTS, AUDITED),
)
async def redis_failover_unconfirmed(rig: Rig, size: Size) -> Figures:
    """Kill the primary without WAIT: every accepted call must be answered, be it with an error."""
    behind = await _fail_over(rig, size, call_timeout=_IMPATIENT)
    accepted = [call for call in rig.ledger.tool_calls if call.fate == "accepted"]
    affected = Counter(call.outcome for call in accepted if call.outcome != "result")
    silent = [call for call in accepted if not call.done.is_set()]
    return Figures(
        _done(size, behind, "without WAIT"),
        {**_counts(rig), "accepted, and no result": dict(affected)},
        (Finding("hanging when the load was over", not silent, str(len(silent))),),
    )


async def _fail_over(rig: Rig, size: Size, **changes: object) -> int:
    """Have a replica take over so many times under load; how many times it was behind."""
    directory = rig.directory / "redis"
    directory.mkdir()
    guarded = GuardedRedis(directory)
    rig.stack.callback(guarded.end)
    await guarded.start()
    rig.configure(**guarded.settings, drain_delay=0.0, **changes)
    await rig.redis.aclose()
    rig.redis = await Redis.connect(rig.settings, "faults")
    rig.stack.push_async_callback(rig.redis.aclose)
    await rig.start(size.pods, size.pods)
    clients = await rig.many_clients(size.clients)
    rig.remember()
    behind = 0
    async with steady(rig, clients, size.calls_per_second):
        for number in range(size.failovers):
            await asyncio.sleep(rig.random.uniform(*_BETWEEN))
            await guarded.watched()
            primary = await guarded.primary()
            if number % 2 == 0:
                behind += 1
                await guarded.hold_replication(primary)
                await asyncio.sleep(rig.random.uniform(*_BEHIND))
            primary.kill()
            await guarded.taken_over_from(primary)
            await guarded.come_back(primary)
        await asyncio.sleep(1.0)
    return behind


def _done(size: Size, behind: int, how: str) -> str:
    return (
        f"The primary was killed {size.failovers} times under {size.clients} clients, and a replica took over, which "
        f"had received nothing for up to {_BEHIND[1]} s {behind} times ({how})."
    )


def _counts(rig: Rig) -> dict[str, object]:
    refused = Counter(rig.ledger.refusals)
    return {
        "calls": len(rig.ledger.tool_calls),
        "outcomes": dict(rig.ledger.outcomes()),
        "refused tries": dict(refused),
        "sessions ended": dict(rig.ledger.ends),
    }
