"""Clients in a process of their own that call `echo` and know how long they waited.

What a scenario's other clients have to do keeps one event loop busy, and whoever shares it would wait for them, not
for the deployment. Run as a program it is that process: it reads its plan as JSON from the first line of standard
input, then a window to begin, or nothing to end one, from each further line; its books are what it prints at last.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pickle
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from faults import ROOT
from faults.client import Client
from faults.deployment import Account, Rig
from faults.ledger import Ledger, Transport
from faults.pods import PATIENCE
from faults.transports import CLIENTS
from faults.wire import Pool

_PAUSE = 0.01
"""Seconds between an answer and the next call of a client."""


class Waited(NamedTuple):
    """One answered call."""

    window: str
    since: float
    """Seconds from the beginning of the window until it was sent."""
    took: float
    """Seconds until it was answered."""
    at: float
    """When it was answered, by the monotonic clock that all processes share."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the process is told at first."""

    account: Account
    urls: Sequence[str]
    transports: Sequence[Transport]
    """One client for each."""
    seed: int
    call_timeout: float
    uncertain: Sequence[str]


@dataclass
class Bystanders:
    """The scenario's side: others than those whom it is about."""

    name: str
    process: asyncio.subprocess.Process
    ledger: Ledger = field(default_factory=Ledger)
    """Their books; empty until they have gone."""
    waited: list[Waited] = field(default_factory=list)
    """The same."""

    @contextlib.asynccontextmanager
    async def calling(self, window: str) -> AsyncIterator[None]:
        """Have them call within the block, and until what they have called is answered."""
        await self._tell(window)
        try:
            yield
        finally:
            await self._tell("")

    async def go(self) -> None:
        """Have them hang up; their books are here then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            self.ledger, self.waited = pickle.loads(await self.process.stdout.read())
            await self.process.wait()

    def p99(self, window: str, settled: float) -> float:
        """The 99th percentile in seconds of the calls that were sent so long after a window's beginning."""
        found = sorted(each.took for each in self.waited if each.window == window and each.since > settled)
        return found[math.ceil(len(found) * 0.99) - 1] if found else math.nan

    async def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(2 * PATIENCE):
            await self.process.stdout.readuntil(b"\n")


@contextlib.asynccontextmanager
async def bystanders(rig: Rig, account: Account, clients: int = 4) -> AsyncIterator[Bystanders]:
    """So many clients of one tenant, ready to call; with the block they go, and the rig has their books, too."""
    urls = list(rig.urls)
    transports = [rig.next_transport() for _ in range(clients)]
    uncertain = [rig.front] if rig.front else []
    plan = Plan(account, urls, transports, rig.random.getrandbits(32), rig.settings.call_timeout, uncertain)
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "faults.bystanders", cwd=ROOT, env=os.environ | {"PYTHONPATH": path},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**30,
    )  # fmt: skip
    found = Bystanders(account.slug, process)
    try:
        await found._tell(orjson.dumps(plan).decode())  # noqa: SLF001 - this makes it
        yield found
        await found.go()
        rig.ledger.add(found.ledger)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _stand_by(plan: Plan, orders: asyncio.StreamReader) -> tuple[Ledger, list[Waited]]:
    """Call when told so, until nothing is told any more."""
    ledger, pool, chance = Ledger(), Pool(), random.Random(plan.seed)
    waited: list[Waited] = []
    clients = []
    for transport in plan.transports:
        urls = chance.sample(plan.urls, len(plan.urls))
        clients.append(
            CLIENTS[transport](
                ledger, plan.account, urls, random.Random(chance.random()), pool,
                call_timeout=plan.call_timeout, uncertain=frozenset(plan.uncertain),
            )
        )  # fmt: skip
    await asyncio.gather(*(client.open() for client in clients))
    print(flush=True)
    while window := (await orders.readline()).decode().rstrip():
        over, began = asyncio.Event(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(_call_on(client, window, began, over, waited))
            print(flush=True)
            await orders.readline()
            over.set()
        print(flush=True)
    await asyncio.gather(*(client.close() for client in clients))
    pool.close()
    return ledger, waited


async def _call_on(client: Client, window: str, began: float, over: asyncio.Event, waited: list[Waited]) -> None:
    while not over.is_set():
        call = await client.call("echo")
        if call.answers:
            waited.append(Waited(window, call.sent_at - began, call.took, call.answers[0].at))
        await asyncio.sleep(_PAUSE)


async def _main() -> None:
    orders = asyncio.StreamReader(limit=2**24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    told = orjson.loads(await orders.readline())
    plan = Plan(**{**told, "account": Account(**told["account"])})
    ledger, waited = await _stand_by(plan, orders)
    for call in ledger.calls:  # events belong to their loop
        call.done, call.known = _event(call.done), _event(call.known)
    sys.stdout.buffer.write(pickle.dumps((ledger, waited)))


def _event(known: asyncio.Event) -> asyncio.Event:
    """One like it, for another loop."""
    made = asyncio.Event()
    if known.is_set():
        made.set()
    return made


if __name__ == "__main__":
    # What is pickled must be found under the same name by whoever reads it.
    from faults.bystanders import _main as main

    asyncio.run(main())
