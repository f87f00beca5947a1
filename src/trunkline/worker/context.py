"""What a session negotiated, as it travels with each of its calls: any worker can take up any session."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Self

import orjson

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Severities of `logging/setLevel`, ascending (specification, server/utilities/logging; RFC 5424)."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What `initialize` and `logging/setLevel` have settled."""

    version: str = ""
    """The negotiated protocol version; empty before `initialize`."""
    client: dict[str, Any] | None = None
    """The params of `initialize` as the client sent them: its name and capabilities."""
    log_level: str = ""
    """The least severe level the client wants to read; empty where it has not said."""
    lists: tuple[str, ...] = ()
    """The lists ("tools", "prompts", "resources") whose changes the client was promised to hear of."""
    formal: bool = False
    """Whether nothing in the server hears that the client is initialized: then no worker need be told."""

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Read what `encode` wrote, here or in a later version; nothing stands for a session before `initialize`."""
        if not encoded:
            return cls()
        known = {key: value for key, value in orjson.loads(encoded).items() if key in _FIELDS}
        return cls(**{**known, "lists": tuple(known.get("lists", ()))})

    def encode(self) -> bytes:
        """The form that the session record keeps; `accept.lua` reads its beginning."""
        return orjson.dumps({"formal": self.formal, **{name: getattr(self, name) for name in _FIELDS}})

    def with_log_level(self, level: str) -> SessionContext:
        """The same session after `logging/setLevel`."""
        return replace(self, log_level=level)

    def wants_log(self, level: object) -> bool:
        """Whether the client asked to see log messages of this level."""
        if not self.log_level or level not in LOG_LEVELS:
            return True
        return LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(self.log_level)


_FIELDS = tuple(each.name for each in fields(SessionContext))

LARGEST_KNOWN = 2_048
"""Bytes of what a client says of itself up to which it is remembered; made into objects it takes some thirty times as
much. Most say a few hundred."""
MOST_KNOWN = 1_024
"""How many are remembered of a kind: no client can have a worker keep more than some 100 MB."""


def decode_context(encoded: bytes) -> SessionContext:
    """`SessionContext.decode`, remembered: a session's calls all bring the same bytes."""
    return _known(encoded) if len(encoded) <= LARGEST_KNOWN else SessionContext.decode(encoded)


_known = lru_cache(MOST_KNOWN)(SessionContext.decode)
