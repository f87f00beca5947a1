"""What a caller may send, in the units of the accept script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

Quota = Sequence[int | None]
"""Calls in a month, from which on that is told, seconds of compute, from which on that is told."""
NO_QUOTA: Quota = (None, None, None, None)


class Share(NamedTuple):
    """What a key may use of what its tenant may; None for no bound of its own."""

    key_id: str
    rate: float | None = None
    """Messages a second."""
    burst: int | None = None
    in_flight: int | None = None
    """Tool calls accepted and not answered."""
    quota: Quota = NO_QUOTA

    @property
    def bounded(self) -> bool:
        """Whether it says anything at all."""
        return self.rate is not None or self.in_flight is not None or any(each is not None for each in self.quota)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A tenant's limits, and those of the key."""

    in_flight: int
    interval_us: float
    """Microseconds between messages at the rate limit."""
    burst_us: float
    """Microseconds by which messages may come early."""
    burst: int
    """Messages at once, of the rate that is told: the key's, where it has one."""
    interval: float
    """Seconds between messages, of the same."""
    more: bytes = b""
    """As `measure.lua` reads it; empty where there is neither quota nor a limit of the key."""

    @classmethod
    def of(
        cls,
        rate: float,
        burst: int,
        in_flight: int,
        *,
        quota: Quota = NO_QUOTA,
        share: Share | None = None,
        life_ms: int = 0,
    ) -> Bounds:
        """The bounds for `rate` messages a second with `burst` at once.

        Args:
            rate: Messages a second of the tenant.
            burst: Messages of it at once.
            in_flight: Requests of it that are not answered.
            quota: What it may use in a month.
            share: What the key may use.
            life_ms: Milliseconds after which no call is under way any more.
        """
        interval = 1_000_000 / rate
        more = b""
        told, seconds = burst, 1 / rate
        if any(each is not None for each in quota) or (share is not None and share.bounded):
            mine = share or Share("")
            more = _encode(quota, mine, life_ms)
            if mine.rate and mine.burst:
                told, seconds = mine.burst, 1 / mine.rate
        return cls(in_flight, interval, interval * burst, told, seconds, more)

    def regardless(self) -> Bounds:
        """The same, for a tenant of which nobody can tell what it has used this month."""
        return replace(self, more=self.more[:-1] + b"1\n")


def _encode(quota: Quota, share: Share, life_ms: int) -> bytes:
    interval = 1_000_000 / share.rate if share.rate else None
    lines = (
        share.key_id,
        interval,
        interval * share.burst if interval and share.burst else None,
        share.in_flight,
        *_in_microseconds(quota),
        *_in_microseconds(share.quota),
        life_ms,
        None,
    )
    return "".join(f"{'' if line is None else line}\n" for line in lines).encode()


def _in_microseconds(quota: Quota) -> Quota:
    calls, calls_soft, compute, compute_soft = quota
    return (
        calls, calls_soft, None if compute is None else compute * 1_000_000,
        None if compute_soft is None else compute_soft * 1_000_000,
    )  # fmt: skip


class Admission(NamedTuple):
    """That a message was accepted."""

    left: int
    """How many more may come at once; -1 where that is not known."""
    used: tuple[int, int, int, int] | None = None
    """Of a metered call, what is used this month with it: calls and us of compute of the tenant, and of its key."""
