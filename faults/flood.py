"""One tenant floods with slow calls at ten times what all workers can run; others, in its lane or not, go on."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from faults.bystanders import Bystanders, bystanders
from faults.client import Client
from faults.deployment import Account, Rig
from faults.ledger import Call
from faults.oracles import Finding
from faults.pods import ScenarioError
from faults.scenarios import Figures, scenario

_TIMES_CAPACITY = 10
_SPREAD = 0.5, 1.5
"""Parts of `Size.seconds` that a call takes: calls of one length would go in step, all of them ending at once."""
_MOST_RATIO = 2.0
QUIET, FLOOD, WARMING = "quiet", "flood", "warming"
"""The windows of a round, and those that do not count."""
_SETTLING = 0.5
"""Seconds at the beginning of a window that are not looked at."""
_ANSWERED_MEANWHILE = 12
"""Calls of each neighbour that must be answered while the flood still waits, even in the small size."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    workers: int
    concurrency: int
    seconds: float
    """That a call of the flood takes, on average."""
    rounds: int
    """Of a quiet window and one of flood."""
    window: float
    """Seconds of each."""
    timed: bool
    """Whether how long neighbours wait must hold, and not only be told."""

    @property
    def capacity(self) -> int:
        """Calls that all workers run at once."""
        return self.workers * self.concurrency


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A tenant that calls `echo` beside the flood."""

    name: str
    calls: Bystanders

    def __str__(self) -> str:
        quiet, flooded = (f"{self.calls.p99(window, _SETTLING) * 1000:.1f} ms" for window in (QUIET, FLOOD))
        counts = Counter(each.window for each in self.calls.waited)
        return (
            f"p99 {quiet} quiet, {flooded} in the flood ({self.ratio:.2f} times), "
            f"of {counts[QUIET]} and {counts[FLOOD]} calls"
        )

    @property
    def ratio(self) -> float:
        """How much longer it waits in the flood."""
        return self.calls.p99(FLOOD, _SETTLING) / self.calls.p99(QUIET, _SETTLING)

    def findings(self, flooded: Sequence[Spell], *, timed: bool) -> list[Finding]:
        """What must hold for it, where most of the flood waited at those times."""
        ledger = self.calls.ledger
        refusals = {name: count for name, count in ledger.refusals.items() if count}
        others = {call.outcome for call in ledger.tool_calls} - {"result"}
        meanwhile = sum(any(spell.begun < each.at < spell.over for spell in flooded) for each in self.calls.waited)
        found = [
            Finding(f"{self.name}: refusals", not refusals, str(refusals or 0)),
            Finding(f"{self.name}: all answered", not others, ", ".join(sorted(others)) or "yes"),
            Finding(f"{self.name}: answered while the flood waits", meanwhile >= _ANSWERED_MEANWHILE, str(meanwhile)),
        ]
        if timed:
            holds = self.ratio <= _MOST_RATIO
            found.append(Finding(f"{self.name}: p99 at most twice the quiet one", holds, f"{self.ratio:.2f}"))
        return found


class Spell(NamedTuple):
    """Seconds of the monotonic clock between which most of the flood waited."""

    begun: float
    over: float


@dataclass
class Flood:
    """Ten times as many slow calls as the workers can run, always."""

    clients: Sequence[Client]
    size: Size
    chance: random.Random
    spells: list[Spell] = field(default_factory=list)
    _under_way: int = 0
    _waits_since: float = math.inf

    @contextlib.asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        """Flood within the block; returns when all of it has been answered."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(self.size.capacity * _TIMES_CAPACITY):
                group.create_task(self._call_on(self.clients[number % len(self.clients)], over))
            try:
                yield
            finally:
                over.set()
                self.spells.append(Spell(self._waits_since, time.monotonic()))
                self._waits_since = math.inf

    async def _call_on(self, client: Client, over: asyncio.Event) -> None:
        await asyncio.sleep(self.chance.uniform(0, self.size.seconds))
        while not over.is_set():
            self._under_way += 1
            if self._under_way > 2 * self.size.capacity:
                self._waits_since = min(self._waits_since, time.monotonic())
            await client.call("slow", seconds=self.size.seconds * self.chance.uniform(*_SPREAD))
            self._under_way -= 1


@scenario(
    "flood",
    "one tenant floods with slow calls at ten times the capacity of all workers",
    "others' p99 for `echo` at most twice the quiet one, no refusals for them",
    small=Size(workers=2, concurrency=4, seconds=0.25, rounds=1, window=1.5, timed=False),
    full=Size(workers=3, concurrency=64, seconds=1.0, rounds=6, window=20.0, timed=True),
)
async def flood(rig: Rig, size: Size) -> Figures:
    """Look at two neighbours, one in the flooding tenant's lane and one not, in turns with and without flood."""
    rig.configure(concurrency=size.concurrency, tenant_in_flight=max(1_000, 2 * _TIMES_CAPACITY * size.capacity))
    await rig.start(apis=2, workers=size.workers)
    near, far = await _neighbours(rig)
    flooding = Flood(await rig.many_clients(8), size, rig.random)
    async with bystanders(rig, near) as in_lane, bystanders(rig, far) as elsewhere:
        rig.remember()
        for number in range(size.rounds + 1):
            # The first window of each kind finds everything cold, and is thrown away where the figures matter.
            warming = number == 0 and size.timed
            if number == size.rounds and not size.timed:
                break
            seconds = min(size.window, 3.0) if number == 0 else size.window
            async with _both(in_lane, elsewhere, WARMING if warming else QUIET):
                await asyncio.sleep(seconds)
            async with flooding.on(), _both(in_lane, elsewhere, WARMING if warming else FLOOD):
                await asyncio.sleep(seconds)
        flooded = [call for call in rig.ledger.tool_calls if call.tool == "slow"]
    neighbours = Neighbour("same lane", in_lane), Neighbour("other lane", elsewhere)
    return _figures(size, neighbours, flooding.spells, flooded)


async def _neighbours(rig: Rig) -> tuple[Account, Account]:
    """One tenant in the lane of that which floods, and one in another."""
    lane = rig.redis.keys.lane_of(rig.accounts["demo"].id)
    found: dict[bool, Account] = {}
    for number in range(400):
        account = await rig.tenant(f"neighbour-{number}")
        found.setdefault(rig.redis.keys.lane_of(account.id) == lane, account)
        if len(found) == 2:
            return found[True], found[False]
    raise ScenarioError("Of 400 tenants none has the lane of the one that floods.")


@contextlib.asynccontextmanager
async def _both(one: Bystanders, other: Bystanders, window: str) -> AsyncIterator[None]:
    async with one.calling(window), other.calling(window):
        yield


def _figures(
    size: Size, neighbours: Sequence[Neighbour], spells: Sequence[Spell], flooded: Sequence[Call]
) -> Figures:
    slowest = max((call.took for call in flooded if call.answers), default=math.nan)
    counts: dict[str, object] = {neighbour.name: str(neighbour) for neighbour in neighbours}
    counts["slowest of the flood"] = f"{slowest:.1f} s"
    unanswered = sorted({call.outcome for call in flooded} - {"result"})
    return Figures(
        f"{len(flooded)} calls of {size.seconds} s on average, {_TIMES_CAPACITY} at any time for each of "
        f"{size.capacity} slots.",
        counts,
        (
            Finding("the flood is answered, too", bool(flooded) and not unanswered, ", ".join(unanswered) or "all"),
            *(finding for neighbour in neighbours for finding in neighbour.findings(spells, timed=size.timed)),
        ),
    )
