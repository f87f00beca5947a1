"""Which form of an answer a client takes: the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

_JSON = ("application/json", "application/*", "*/*")
_EVENTS = ("text/event-stream", "text/*", "*/*")
_NONE = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})


class Accepts(NamedTuple):
    """What of our two media types a client takes."""

    json: bool
    events: bool


@lru_cache(256)
def accepted(header: str) -> Accepts:
    """What an Accept header allows; a missing one allows all."""
    if not header:
        return Accepts(json=True, events=True)
    allowed: dict[str, bool] = {}
    for item in header.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        allowed[media] = _NONE.isdisjoint(parameters)
    return Accepts(json=_decide(allowed, _JSON), events=_decide(allowed, _EVENTS))


def _decide(allowed: dict[str, bool], ranges: tuple[str, ...]) -> bool:
    """The most specific range that names a media type decides."""
    return next((allowed[media] for media in ranges if media in allowed), False)
