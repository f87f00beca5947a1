"""How many requests a caller may make to `/v1` on this pod (GCRA), and the headers that say so.

Before a caller has shown who it is, its address counts; afterwards the principal, whatever its credential.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from trunkline.api.heads import Headers
from trunkline.api.http import Request
from trunkline.errors import TooManyRequests
from trunkline.settings import Settings
from trunkline.tenants.addresses import site_of

_MOST_REMEMBERED: Final = 10_000


class Allowances:
    """One allowance for each caller, of `CONTROL_RATE` a second and `CONTROL_BURST` at once."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1.0 / settings.control_rate
        self._burst = settings.control_burst
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        self._principals: OrderedDict[bytes, str] = OrderedDict()
        """By the digest of a credential that was good, whose it is."""
        self._policy = f'"control";q={self._burst};w={math.ceil(self._burst * self._interval)}'.encode()

    def count(self, request: Request, address: str) -> Headers:
        """Count a request; the headers that its answer carries (draft-ietf-httpapi-ratelimit-headers-10).

        Raises:
            TooManyRequests: with the seconds to wait.
        """
        known = self._principals.get(_digest(request))
        left, wait = self._take(known or f"address:{site_of(address)}")
        full = math.ceil((self._burst - left) * self._interval)
        headers = (
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", b'"control";r=%d;t=%d' % (left, full)),
        )
        if wait > 0:
            request.cors += headers
            raise TooManyRequests("You send requests faster than allowed; wait, then go on.", retry_after=wait)
        return headers

    def note(self, request_headers: dict[bytes, bytes], principal: str) -> None:
        """Count requests with this credential as the principal's from now on: it was good."""
        digest = _credential(request_headers)
        self._principals[digest] = principal
        self._principals.move_to_end(digest)
        if len(self._principals) > _MOST_REMEMBERED:
            self._principals.popitem(last=False)

    def _take(self, who: str) -> tuple[int, float]:
        """Requests left, and seconds to wait where there is none."""
        now = self._clock()
        due = max(self._due.pop(who, now), now) + self._interval
        early = due - now - self._interval * self._burst
        if early > 0:
            due -= self._interval
        self._due[who] = due
        if len(self._due) > _MOST_REMEMBERED:
            self._due.popitem(last=False)
        return max(int(self._burst - (due - now) / self._interval + 1e-9), 0), max(early, 0.0)


def _digest(request: Request) -> bytes:
    return _credential(request.head.headers)


def _credential(headers: dict[bytes, bytes]) -> bytes:
    shown = headers.get(b"authorization", b"") or headers.get(b"cookie", b"")
    return hashlib.sha256(shown).digest()
