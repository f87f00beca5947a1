"""What a stream remembers of the answers that it has delivered, and what it says of those that will never come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from trunkline.errors import INTERNAL_ERROR
from trunkline.streams.sessions import Sent, Waiting

_REMEMBERED = 64
_LOST = orjson.dumps(
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
        self._calls: list[bytes] = []

    def note(self, call: bytes) -> None:
        """The answer of a call was delivered."""
        self._calls.append(call)
        if len(self._calls) > _REMEMBERED:
            del self._calls[0]

    def contradicts(self, pending: Sequence[Waiting], missed: Sequence[Sent]) -> bool:
        """Whether one of these calls was answered before."""
        known = set(self._calls)
        return any(each.call in known for each in pending) or any(each.tag in known for each in missed)

    def without(self, pending: Sequence[Waiting], lost: int) -> Sequence[Waiting]:
        """Those of the calls that were surely not answered before, where Redis has lost so many messages."""
        if lost > _REMEMBERED:
            return ()
        known = set(self._calls)
        return [each for each in pending if each.call not in known]


def lost_answers(stream: str, request_ids: Iterable[bytes]) -> bytes:
    """Events that answer calls, named by their JSON-RPC ids, with the error that nothing is known of them."""
    head = b"id: %b.lost\nevent: message\ndata: " % stream.encode()
    return b"".join(b'%b{"jsonrpc":"2.0","id":%b,"error":%b}\n\n' % (head, each, _LOST) for each in request_ids)
