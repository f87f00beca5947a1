"""What a stream remembers of the answers that it has delivered, and what it says of those that will never come."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from trunkline.errors import INTERNAL_ERROR
from trunkline.streams.sessions import Sent, Waiting

_REMEMBERED = 64
_LOST_ERROR = orjson.dumps(
    {
        "code": INTERNAL_ERROR,
        "message": "The answer of this call was lost on its way; whether the call took effect is unknown.",
        "data": {"outcome": "unknown"},
    }
)


class Answered:
    """The latest 64 calls whose answers a stream has delivered.

    An answer and the end of its call are one step in Redis. One that calls pending, or answers again, what was
    delivered is a Redis that came back without its last moments.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[bytes, None] = {}

    def note(self, call: bytes) -> None:
        """The answer of a call was delivered."""
        self._calls[call] = None
        if len(self._calls) > _REMEMBERED:
            del self._calls[next(iter(self._calls))]

    def __contains__(self, call: bytes) -> bool:
        return call in self._calls

    def contradicts(self, pending: Sequence[Waiting], missed: Sequence[Sent]) -> bool:
        """Whether one of these calls was answered before."""
        known = self._calls
        return any(each.call in known for each in pending) or any(each.tag in known for each in missed)

    def without(self, pending: Sequence[Waiting], lost: int) -> Sequence[Waiting]:
        """Those of the calls that were surely not answered before, where Redis has lost so many messages."""
        if lost > _REMEMBERED:
            return ()
        return [each for each in pending if each.call not in self._calls]


def lost_answer(request_id: bytes) -> bytes:
    """The answer to a request, named by its JSON-RPC id, of which nothing is known any more."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id, _LOST_ERROR)
