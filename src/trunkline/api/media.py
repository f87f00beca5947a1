"""Which form of an answer a client takes: the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

_JSON = ("application/json", "application/*", "*/*")
_EVENTS = ("text/event-stream", "text/*", "*/*")


class Accepts(NamedTuple):
    """What of our two media types a client takes."""

    json: bool
    events: bool
    prefers_events: bool = False
    """Whether it names both, and the stream with more weight, or with as much and before the document."""


@lru_cache(256)
def accepted(header: str) -> Accepts:
    """What an Accept header allows; a missing one allows all."""
    if not header:
        return Accepts(json=True, events=True)
    weights: dict[str, float] = {}
    for item in header.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        weights.setdefault(media, _weight(parameters))
    json, events = _decide(weights, _JSON), _decide(weights, _EVENTS)
    return Accepts(json > 0, events > 0, prefers_events=_prefers_events(weights))


def _weight(parameters: list[str]) -> float:
    """The `q` among the parameters of a range, 1 where it has none or one that is no number (section 12.4.2)."""
    for parameter in parameters:
        if parameter.startswith("q="):
            with contextlib.suppress(ValueError):
                return float(parameter[2:])
    return 1.0


def _decide(weights: Mapping[str, float], ranges: tuple[str, ...]) -> float:
    """The most specific range that names a media type decides."""
    return next((weights[media] for media in ranges if media in weights), 0.0)


def _prefers_events(weights: Mapping[str, float]) -> bool:
    json, events = weights.get(_JSON[0]), weights.get(_EVENTS[0])
    if not json or not events:
        return False
    named = list(weights)
    return events > json or (events == json and named.index(_EVENTS[0]) < named.index(_JSON[0]))
