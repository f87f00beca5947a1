"""API pods are killed while they hold streams; their clients go on elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from faults.client import Client
from faults.deployment import Rig
from faults.oracles import Finding
from faults.pods import until
from faults.scenarios import Figures, scenario
from faults.steady import steady

_SOON = 3.0
"""Seconds within which nearly all streams must be back."""
_NEARLY_ALL = 0.95


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    streams: int
    """All of them at the pod that is killed."""
    rounds: int
    calls_per_second: float


@scenario(
    "api-killed",
    "an API pod killed with all live streams, round after round; clients resume elsewhere",
    "oracles; 95 % resumed within 3 s",
    small=Size(streams=40, rounds=2, calls_per_second=60),
    full=Size(streams=500, rounds=20, calls_per_second=150),
)
async def api_killed(rig: Rig, size: Size) -> Figures:
    """Kill the pod that holds all streams, wait until they are back, and start it anew."""
    await rig.start()
    # All clients try the pods in one order, so they are always together: at the next pod, which gets them at once.
    clients = await rig.many_clients(size.streams, urls=rig.urls)
    rig.remember()
    held = []
    async with steady(rig, clients, size.calls_per_second, long=2_000):  # so that answers are under way by streams
        for _ in range(size.rounds):
            await asyncio.sleep(1.0)
            pod = max(rig.apis, key=lambda api: len(_at(clients, api.url)))
            lost = _at(clients, pod.url)
            held.append(len(lost))
            before = len(rig.ledger.resumes)
            pod.kill()
            await until(
                lambda before=before, lost=lost: len(rig.ledger.resumes) >= before + len(lost),
                what="all streams to be back",
            )
            await rig.restart(pod)
    seconds = sorted(resume.seconds for resume in rig.ledger.resumes)
    lost_calls = [
        call for call in rig.ledger.accepted if call.transport != "modern" and call.outcome != "result"
    ]  # what is stateless ends with its connection
    share = sum(each <= _SOON for each in seconds) / max(len(seconds), 1)
    return Figures(
        f"An API pod was killed {size.rounds} times, with {min(held)} to {max(held)} live streams.",
        {
            "calls": len(rig.ledger.tool_calls),
            "outcomes": dict(rig.ledger.outcomes()),
            "streams resumed": len(seconds),
            "answers read on elsewhere": len(rig.ledger.continued),
            "slowest": f"{seconds[-1]:.2f} s",
        },
        (
            Finding(f"resumed within {_SOON:.0f} s", share >= _NEARLY_ALL, f"{share:.1%}"),
            Finding("sessions ended", not rig.ledger.ends, str(dict(rig.ledger.ends) or 0)),
            Finding("accepted in a session, and no result", not lost_calls, str(len(lost_calls))),
        ),
    )


def _at(clients: list[Client], url: str) -> list[Client]:
    return [client for client in clients if client.at == url]
