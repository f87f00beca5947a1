"""One tenant floods with slow calls at ten times what all workers can run; others, in its lane or not, go on."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from faults.client import Client
from faults.deployment import Account, Rig
from faults.ledger import Call, Ledger
from faults.oracles import Finding
from faults.pods import ScenarioError
from faults.scenarios import Figures, scenario

_TIMES_CAPACITY = 10
_MOST_RATIO = 2.0
_PAUSE = 0.01
"""Seconds between an answer and the next call of a client."""
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
    """That each call of the flood takes."""
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


@dataclass
class Neighbour:
    """A tenant that calls `echo`, and knows how long it waited."""

    name: str
    clients: Sequence[Client]
    ledger: Ledger
    waited: dict[str, list[float]] = field(default_factory=lambda: {"quiet": [], "flood": []})
    answered_meanwhile: int = 0
    """While the flood was there and most of it still waited."""

    def __str__(self) -> str:
        quiet, flooded = (f"{self.p99(window) * 1000:.1f} ms" for window in ("quiet", "flood"))
        calls = " and ".join(str(len(waited)) for waited in self.waited.values())
        return f"p99 {quiet} quiet, {flooded} in the flood ({self.ratio:.2f} times), of {calls} calls"

    def p99(self, window: str) -> float:
        """The 99th percentile in seconds."""
        found = sorted(self.waited[window])
        return found[math.ceil(len(found) * 0.99) - 1] if found else math.nan

    @property
    def ratio(self) -> float:
        """How much longer it waits in the flood."""
        return self.p99("flood") / self.p99("quiet")

    def findings(self, *, timed: bool) -> list[Finding]:
        """What must hold for it."""
        refusals = {name: count for name, count in self.ledger.refusals.items() if count}
        others = {call.outcome for call in self.ledger.tool_calls} - {"result"}
        found = [
            Finding(f"{self.name}: refusals", not refusals, str(refusals or 0)),
            Finding(f"{self.name}: all answered", not others, ", ".join(sorted(others)) or "yes"),
            Finding(
                f"{self.name}: answered while the flood waits",
                self.answered_meanwhile >= _ANSWERED_MEANWHILE,
                str(self.answered_meanwhile),
            ),
        ]
        if timed:
            holds = self.ratio <= _MOST_RATIO
            found.append(Finding(f"{self.name}: p99 at most twice the quiet one", holds, f"{self.ratio:.2f}"))
        return found


@dataclass
class Flood:
    """Ten times as many slow calls as the workers can run, always."""

    clients: Sequence[Client]
    size: Size
    under_way: int = 0

    @property
    def waits(self) -> bool:
        """Whether more of it waits than runs."""
        return self.under_way > 2 * self.size.capacity

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

    async def _call_on(self, client: Client, over: asyncio.Event) -> None:
        while not over.is_set():
            self.under_way += 1
            await client.call("slow", seconds=self.size.seconds)
            self.under_way -= 1


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
    flooding = Flood(await rig.many_clients(8), size)
    rig.remember()
    for number in range(size.rounds + 1):
        # The first window of each kind finds everything cold, and is thrown away where the figures matter.
        counted = number > 0 or not size.timed
        if number == size.rounds and not size.timed:
            break
        async with _calling((near, far), "quiet", flooding, counted=counted):
            await asyncio.sleep(size.window if number else min(size.window, 3.0))
        async with flooding.on(), _calling((near, far), "flood", flooding, counted=counted):
            await asyncio.sleep(size.window if number else min(size.window, 3.0))
    flooded = [call for call in rig.ledger.tool_calls if call.tool == "slow"]
    for neighbour in (near, far):
        rig.ledger.calls += neighbour.ledger.calls
        rig.ledger.foreign += neighbour.ledger.foreign
        rig.ledger.breaks += neighbour.ledger.breaks
        rig.ledger.surprises += neighbour.ledger.surprises
    return _figures(size, (near, far), flooded)


async def _neighbours(rig: Rig) -> tuple[Neighbour, Neighbour]:
    """One in the lane of the tenant that floods, and one in another."""
    lane = rig.redis.keys.lane_of(rig.accounts["demo"].id)
    found: dict[bool, Account] = {}
    for number in range(400):
        account = await rig.tenant(f"neighbour-{number}")
        found.setdefault(rig.redis.keys.lane_of(account.id) == lane, account)
        if len(found) == 2:
            break
    else:
        raise ScenarioError("Of 400 tenants none has the lane of the one that floods.")
    return await _neighbour(rig, "same lane", found[True]), await _neighbour(rig, "other lane", found[False])


async def _neighbour(rig: Rig, name: str, account: Account) -> Neighbour:
    clients = await rig.many_clients(4, account.slug)
    ledger = Ledger()
    for client in clients:
        client.ledger = ledger
    return Neighbour(name, clients, ledger)


@contextlib.asynccontextmanager
async def _calling(
    neighbours: Sequence[Neighbour], window: str, flooding: Flood, *, counted: bool
) -> AsyncIterator[None]:
    """Have the neighbours call within the block, and until what they have called is answered."""
    over, began = asyncio.Event(), time.monotonic()

    async def call_on(neighbour: Neighbour, client: Client) -> None:
        while not over.is_set():
            _book(neighbour, await client.call("echo"))
            await asyncio.sleep(_PAUSE)

    def _book(neighbour: Neighbour, call: Call) -> None:
        if counted and call.sent_at > began + _SETTLING:
            neighbour.waited[window].append(call.took)
        neighbour.answered_meanwhile += window == "flood" and flooding.waits and bool(call.answers)

    async with asyncio.TaskGroup() as group:
        for neighbour in neighbours:
            for client in neighbour.clients:
                group.create_task(call_on(neighbour, client))
        try:
            yield
        finally:
            over.set()


def _figures(size: Size, neighbours: Sequence[Neighbour], flooded: list[Call]) -> Figures:
    slowest = max((call.took for call in flooded if call.answers), default=math.nan)
    counts: dict[str, object] = {neighbour.name: str(neighbour) for neighbour in neighbours}
    counts["slowest of the flood"] = f"{slowest:.1f} s"
    unanswered = sorted({call.outcome for call in flooded} - {"result"})
    return Figures(
        f"{len(flooded)} calls of {size.seconds} s, {_TIMES_CAPACITY} at any time for each of {size.capacity} slots.",
        counts,
        (
            Finding("the flood is answered, too", bool(flooded) and not unanswered, ", ".join(unanswered) or "all"),
            *(finding for neighbour in neighbours for finding in neighbour.findings(timed=size.timed)),
        ),
    )
