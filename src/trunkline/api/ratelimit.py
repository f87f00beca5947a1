"""What an answer tells of its caller's limits (draft-ietf-httpapi-ratelimit-headers-10), and of soft quotas.

`RateLimit-Policy` names what holds, `RateLimit` what is left of it. Names: `rate` (messages, of the key where that
has a rate of its own, else of the tenant), `in-flight`, and by the month `calls` and `compute` (seconds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from trunkline.errors import QuotaExceeded, TooManyCalls, TooManyRequests
from trunkline.streams.bounds import Admission, Bounds
from trunkline.tenants.limits import NO_QUOTAS, Quotas

Told = tuple[tuple[bytes, bytes], ...]
"""Headers of an answer."""
_POLICY, _LEFT, _SOFT = b"ratelimit-policy", b"ratelimit", b"trunkline-quota"
EXPOSED = b"ratelimit, ratelimit-policy, trunkline-quota"
"""For pages of other origins to read (Fetch standard, CORS protocol)."""
_MONTH = 30 * 24 * 3600
"""Seconds of the window that is told of monthly quotas."""
_STEPS = 100
"""Of large bursts, what is left is told to a hundredth and rounded down: so few heads are kept that are alike."""
_US = 1_000_000
"""Compute is told in whole seconds, rounded up."""


class _Monthly(NamedTuple):
    """A quota, and what is used of it."""

    name: str
    hard: int | None
    soft: int | None
    used: int
    of_key: bool


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What one caller is told."""

    bounds: Bounds
    tenant: Quotas = NO_QUOTAS
    key: Quotas = NO_QUOTAS

    def accepted(self, admission: Admission, clock: Callable[[], float]) -> Told:
        """With an answer to an accepted message; `clock` tells epoch seconds."""
        bounds, left = self.bounds, admission.left
        if left < 0:
            return ()
        if left > _STEPS:
            left -= left % max(bounds.burst // _STEPS, 1)
        told = _rate(bounds.burst, bounds.interval, left)
        return told if admission.used is None else self._metered(told, admission.used, clock())

    def refused(self, error: TooManyRequests) -> Told:
        """With a 429."""
        wait = max(math.ceil(error.retry_after or 1), 1)
        if isinstance(error, QuotaExceeded):
            name = str(error.data["quota"]) if isinstance(error.data, dict) else "calls"
            hard = [each.hard for each in self._monthly((0, 0, 0, 0)) if each.name == name and each.hard is not None]
            limit, window = min(hard, default=0), _MONTH
        elif isinstance(error, TooManyCalls):
            name, limit, window = "in-flight", self.bounds.in_flight, 0
        else:
            name, limit, window = "rate", self.bounds.burst, _window(self.bounds.burst, self.bounds.interval)
        policy = f'"{name}";q={limit}' + (f";w={window}" if window else "")
        return (_POLICY, policy.encode()), (_LEFT, b'"%b";r=0;t=%d' % (name.encode(), wait))

    def _metered(self, told: Told, used: tuple[int, int, int, int], now: float) -> Told:
        (_, policy), (_, left) = told
        monthly = list(self._monthly(used))
        ends = math.ceil(_month_ends(now) - now)
        tightest: dict[str, _Monthly] = {}
        for each in monthly:
            known = tightest.get(each.name)
            if each.hard is not None and (known is None or each.hard - each.used < (known.hard or 0) - known.used):
                tightest[each.name] = each
        for name, each in tightest.items():
            hard = each.hard or 0
            policy += f', "{name}";q={hard};w={_MONTH}'.encode()
            left += f', "{name}";r={max(hard - each.used, 0)};t={ends}'.encode()
        soft = ", ".join(
            f"{each.name};soft={each.soft};used={each.used}" + (";key" if each.of_key else "")
            for each in monthly
            if each.soft is not None and each.used > each.soft
        )
        headers = (_POLICY, policy), (_LEFT, left)
        return (*headers, (_SOFT, soft.encode())) if soft else headers

    def _monthly(self, used: tuple[int, int, int, int]) -> Iterator[_Monthly]:
        for quotas, calls, compute_us, of_key in (
            (self.tenant, used[0], used[1], False),
            (self.key, used[2], used[3], True),
        ):
            for name, hard, soft, count in (
                ("calls", quotas.calls, quotas.calls_soft, calls),
                ("compute", quotas.compute, quotas.compute_soft, -(-compute_us // _US)),
            ):
                if hard is not None or soft is not None:
                    yield _Monthly(name, hard, soft, count, of_key)


@lru_cache(8192)
def _rate(burst: int, interval: float, left: int) -> Told:
    full = math.ceil((burst - left) * interval)
    policy = b'"rate";q=%d;w=%d' % (burst, _window(burst, interval))
    return (_POLICY, policy), (_LEFT, b'"rate";r=%d;t=%d' % (left, full))


def _window(burst: int, interval: float) -> int:
    """Seconds in which as many may come as at once."""
    return max(math.ceil(burst * interval), 1)


def _month_ends(now: float) -> float:
    today = datetime.fromtimestamp(now, UTC)
    return datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC).timestamp()
