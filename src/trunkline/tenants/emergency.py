"""Writing down what is in force already: nobody waits long for a Postgres that may be away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from trunkline.errors import Unavailable

PATIENCE: Final = 5.0
"""Seconds that are given to Postgres; it is written down by a pod later."""

Result = TypeVar("Result")


async def written(work: Coroutine[Any, Any, Result]) -> Result | None:
    """What the work gives; None where Postgres is away, or answers nothing."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    if not done:
        task.cancel()  # giving up a connection takes seconds more, which nobody waits for
        return None
    try:
        return task.result()
    except Unavailable:
        return None
