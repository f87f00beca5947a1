"""Limits and monthly quotas, of a key and of a tenant: values, how they are checked, and as claims of a key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

from trunkline.errors import UsageError

MOST = 1_000_000
"""Highest rate, burst and number of requests in flight."""
LEAST_RATE = 1 / 86_400
"""Lowest rate of a key: one message a day."""
LONGEST_BURST = 30 * 86_400
"""Seconds in which a key's whole burst comes again, at most: Redis remembers its rate for as long."""
MOST_MONTHLY = 10**12
"""Highest quota: calls, or seconds of compute, in a month."""


class Quotas(NamedTuple):
    """What may be used in a calendar month (UTC); None for no bound."""

    calls: int | None = None
    """Tool calls; beyond it they are refused."""
    calls_soft: int | None = None
    """Tool calls from which on answers say so, and one event is recorded."""
    compute: int | None = None
    """Seconds that tools ran."""
    compute_soft: int | None = None

    def check(self) -> Self:
        """Give them back.

        Raises:
            UsageError: one of them cannot be, or is softer than the bound that it warns of is hard.
        """
        for name, value in zip(self._fields, self, strict=True):
            if value is not None and not 0 < value <= MOST_MONTHLY:
                raise UsageError(f"A monthly quota ({name}) is a whole number from 1 to {MOST_MONTHLY}.")
        for what, soft, hard in (
            ("calls", self.calls_soft, self.calls),
            ("compute", self.compute_soft, self.compute),
        ):
            if soft is not None and hard is not None and soft > hard:
                raise UsageError(f"The soft quota of {what} is above the hard one; it would never be told.")
        return self


NO_QUOTAS = Quotas()


class KeyLimits(NamedTuple):
    """What one key may use, beside what its tenant may; None for no bound of its own."""

    rate: float | None = None
    """Messages a second."""
    burst: int | None = None
    """Messages at once; where there is a rate and no burst, as many as come in a second."""
    in_flight: int | None = None
    """Tool calls accepted and not answered."""
    calls: int | None = None
    calls_soft: int | None = None
    compute: int | None = None
    """Seconds in a month, like the fields above and below as in `Quotas`."""
    compute_soft: int | None = None
    sessions: int | None = None
    """Sessions that live; at it, one that was left for 5 minutes ends in the place of a new one."""

    @property
    def quotas(self) -> Quotas:
        """The monthly part."""
        return Quotas(self.calls, self.calls_soft, self.compute, self.compute_soft)

    def check(self) -> KeyLimits | None:
        """Give them back, complete; None where nothing is limited.

        Raises:
            UsageError: one of them cannot be.
        """
        if not any(each is not None for each in self):
            return None
        if self.rate is not None and not LEAST_RATE <= self.rate <= MOST:
            raise UsageError(f"A key's rate limit is from 1/86400 (one a day) to {MOST} messages a second.")
        if self.burst is not None and self.rate is None:
            raise UsageError("A key's burst goes with a rate; give both.")
        for name, count in (("burst", self.burst), ("in_flight", self.in_flight), ("sessions", self.sessions)):
            if count is not None and not 0 < count <= MOST:
                raise UsageError(f"A key's {name} is a whole number from 1 to {MOST}.")
        self.quotas.check()
        if self.rate is None:
            return self
        if self.burst is None:
            return self._replace(burst=max(math.ceil(self.rate), 1))
        if self.burst / self.rate > LONGEST_BURST:
            raise UsageError("A key's burst is no more than comes in 30 days at its rate.")
        return self

    def claims(self) -> dict[str, float]:
        """What of it is set: the claim `lim` of a key, and the column."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def within(self, other: KeyLimits | None) -> bool:
        """Whether nothing is allowed by these that `other` does not allow."""
        return all(
            bound is None or (value is not None and value <= bound)
            for value, bound in zip(self, other or NO_LIMITS, strict=True)
        )


NO_LIMITS = KeyLimits()


def limits_of(claim: object) -> KeyLimits | None:
    """The limits that a claim or a column holds; None for none.

    Raises:
        ValueError: it is nothing that `claims` gives. A limit that is not understood is none that may be ignored.
    """
    if claim is None or claim == {}:
        return None
    if not isinstance(claim, Mapping) or not all(isinstance(name, str) for name in claim):
        raise ValueError("limits of a key are an object")
    if not set(claim) <= set(KeyLimits._fields):
        raise ValueError("a limit of a key that is not known")
    for name, value in claim.items():
        if isinstance(value, bool) or not isinstance(value, int | float if name == "rate" else int):
            raise ValueError("a limit of a key is a number")
    try:
        return KeyLimits(**claim).check()
    except UsageError as error:
        raise ValueError(str(error)) from error
