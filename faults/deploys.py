"""Rolling deploys: every pod is replaced, one after the other, while clients call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from faults.deployment import Rig
from faults.oracles import Finding
from faults.pods import Pod
from faults.scenarios import Figures, scenario
from faults.steady import steady

_KNOWN_LATE = 1.0
"""Seconds after its SIGTERM for which a pod is still given requests: so long a balancer may take to hear of it."""

_DRAIN_DELAY = 3.0
"""Seconds for which a pod that stops still takes them; the default of DRAIN_DELAY."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    deploys: int
    apis: int
    workers: int
    clients: int
    calls_per_second: float


@scenario(
    "deploys",
    "rolling deploys under load: every pod replaced, one by one",
    "no failed call",
    small=Size(deploys=1, apis=2, workers=2, clients=20, calls_per_second=50),
    full=Size(deploys=20, apis=3, workers=3, clients=100, calls_per_second=100),
)
async def deploys(rig: Rig, size: Size) -> Figures:
    """Replace every API pod and every worker: the new one is ready before the old one is told to stop."""
    rig.configure(drain_delay=_DRAIN_DELAY)
    await rig.start(size.apis, size.workers)
    clients = await rig.many_clients(size.clients)
    balanced = list(rig.urls)
    for client in clients:
        client.urls = balanced
    codes: list[int] = []
    async with steady(rig, clients, size.calls_per_second):
        for _ in range(size.deploys):
            for old in list(rig.apis):
                balanced.append((await rig.api()).url)
                codes.append(await _retire(rig, old, balanced))
            for old in list(rig.workers):
                await rig.worker()
                codes.append(await _retire(rig, old, balanced))
    calls = rig.ledger.tool_calls
    failed = [call for call in calls if call.outcome != "result"]
    refused = {kind: count for kind, count in rig.ledger.refusals.items() if kind.startswith("POST")}
    return Figures(
        f"{len(codes)} pods were replaced in {size.deploys} rolling deploys, {size.clients} clients calling.",
        {
            "calls": len(calls),
            "outcomes": dict(rig.ledger.outcomes()),
            "streams resumed": len(rig.ledger.resumes),
            "slowest call": f"{max(call.took for call in calls):.2f} s",
        },
        (
            Finding("calls that failed", not failed, str(len(failed))),
            Finding("messages refused", not refused, str(refused or 0)),
            Finding("sessions ended", not rig.ledger.ends, str(dict(rig.ledger.ends) or 0)),
            Finding("pods that did not end in order", not any(codes), str(sum(code != 0 for code in codes))),
        ),
    )


async def _retire(rig: Rig, old: Pod, balanced: list[str]) -> int:
    """Stop a pod as an orchestrator does, which tells the balancer at the same moment, not before; its exit code."""
    rig.forget(old)
    stopping = asyncio.create_task(old.stop())
    if old.url:
        await asyncio.sleep(_KNOWN_LATE)
        balanced.remove(old.url)
    return await stopping
