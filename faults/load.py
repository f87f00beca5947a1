"""A number of calls, made by several clients between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from faults.client import Client
from faults.ledger import Call


async def share(
    clients: Sequence[Client],
    calls: int,
    make: Callable[[int], tuple[str, dict[str, object]]],
    *,
    each: int = 1,
) -> list[Call]:
    """Have `clients` make so many calls between them, each `each` at a time; returns when all are settled.

    Args:
        clients: Who calls.
        calls: How many in all.
        make: The tool and its arguments of the n-th.
        each: Calls that one client has under way at once.
    """
    numbers = iter(range(calls))
    made: list[Call] = []

    async def work(client: Client) -> None:
        for number in numbers:
            tool, arguments = make(number)
            made.append(await client.call(tool, **arguments))

    async with asyncio.TaskGroup() as group:
        for client in clients:
            for _ in range(each):
                group.create_task(work(client))
    return made
