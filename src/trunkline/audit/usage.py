"""What tenants use, by day, key and tool: rolled up from audit events in the transaction that writes them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

from trunkline.audit.chain import Event, time_of
from trunkline.audit.seed import TOOL_CALL

_DAY_US = 86_400_000_000


class UsageKey(NamedTuple):
    """What a row of usage is about."""

    tenant: str
    day: date
    """Of acceptance, UTC."""
    key_id: str
    """Empty for calls without a key."""
    tool: str


class Used(NamedTuple):
    """How much."""

    calls: int = 0
    errors: int = 0
    """Calls whose outcome is not `ok`."""
    compute_us: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def plus(self, other: Used) -> Used:
        """Both together."""
        return Used(*map(int.__add__, self, other))


def roll_up(events: Iterable[Event]) -> dict[UsageKey, Used]:
    """The usage of the tool calls among these events."""
    sums: dict[tuple[str, int, str | None, str | None], list[int]] = {}
    for event in events:
        if event.action != TOOL_CALL:
            continue
        key = (event.tenant, event.occurred_us // _DAY_US, event.actor, event.target)
        found = sums.get(key)
        if found is None:
            found = sums[key] = [0, 0, 0, 0, 0]
        found[0] += 1
        found[1] += event.outcome != "ok"
        found[2] += event.compute_us
        found[3] += event.bytes_in
        found[4] += event.bytes_out
    return {
        UsageKey(tenant, time_of(day * _DAY_US).date(), actor or "", tool or ""): Used(*each)
        for (tenant, day, actor, tool), each in sums.items()
    }
