"""A steady load while something happens to the deployment: calls of all kinds, each client one at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from faults.client import Client
from faults.deployment import Rig

_LONG = -1
"""Stands for the milliseconds that the longest calls take."""
_KINDS = (
    ("echo", 0), ("echo", 0), ("repeatable", 0), ("repeatable", 0), ("once", 0), ("once", 0),
    ("repeatable", 50), ("repeatable", 50), ("once", 50), ("once", _LONG),
)  # fmt: skip
"""Tools, and the milliseconds that they take."""


@contextlib.asynccontextmanager
async def steady(rig: Rig, clients: Sequence[Client], per_second: float, long: int = 400) -> AsyncIterator[None]:
    """About so many calls a second between all `clients`, until the end of the block and then until all are settled.

    A client whose call waits makes no other meanwhile: while nothing goes, nothing piles up. One call in ten takes
    `long` ms; of those that take more than 200, the answer over streamable HTTP comes by a stream.
    """
    over = asyncio.Event()

    async def call_on(client: Client) -> None:
        while not await _passes(rig.random.expovariate(per_second / len(clients)), over):
            tool, ms = rig.random.choice(_KINDS)
            await client.call(tool, **({} if tool == "echo" else {"ms": long if ms == _LONG else ms}))

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(call_on(client))
        yield
        over.set()


async def _passes(seconds: float, over: asyncio.Event) -> bool:
    """Wait so long; whether it was over before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await over.wait()
    return over.is_set()
