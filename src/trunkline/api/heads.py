"""Heads of requests, and those that come again: a client sends the same one with each request, but for the length.

What was read from a head and decided by it alone (its parts, its route, that its Host and Origin may be here) holds
for the same bytes again. Who calls is not decided by a head alone: that is settled for each request.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

Headers = tuple[tuple[bytes, bytes], ...]

Fact = TypeVar("Fact")

_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,8})\r\n")
_WANTS_MORE = frozenset({b"expect", b"upgrade"})
"""Headers of requests that want more than an answer (RFC 9110, sections 7.8 and 10.1.1)."""
_MOST_DIGITS = 8
_LONGEST = 4096
_MOST_KNOWN = 1024
_MOST_HEADERS = 64
"""That a head has which is kept; each costs some hundred bytes, however short it is."""
LARGEST_HEAD = 65_536
"""Bytes of a head (RFC 6585, section 5)."""


class Route(NamedTuple):
    """What answers a request."""

    handler: Callable[[Any], Awaitable[None]]
    tenant: str
    """The name of the tenant in the path; empty where it has none."""
    cors: Headers
    """Headers that every answer carries (Fetch standard, CORS protocol)."""


class Head:
    """What the head of a request says."""

    __slots__ = ("_facts", "bytes", "headers", "method", "names", "path", "query", "route", "size", "version")

    def __init__(self, scope: HTTPScope) -> None:
        """Take over what was parsed, as ASGI has it."""
        self.method = scope["method"]
        self.path = scope["raw_path"]
        self.query = scope["query_string"]
        self.version = scope["http_version"]
        headers = list(scope["headers"])
        self.headers = dict(headers)
        """By lower-case name."""
        self.names: list[bytes] = []
        """All names in their order, where one comes more than once; else nothing."""
        if len(self.headers) != len(headers):
            self.names = [name for name, _ in headers]
        self.bytes: tuple[bytes, bytes] | None = None
        """Before and behind the digits of its length, where it is kept for requests that have the same."""
        self.size = len(self.path) + len(self.query) + sum(len(name) + len(value) for name, value in headers)
        """Bytes, about."""
        self._facts: dict[Callable[[Head], object], object] = {}
        self.route: Route | None = None
        """Where the request goes, once that was decided; nothing but this head has a part in it."""

    def header(self, name: bytes) -> str:
        """A header's value, by its lower-case name; empty where it is missing."""
        return self.headers.get(name, b"").decode("latin-1")

    def once(self, fact: Callable[[Head], Fact]) -> Fact:
        """What follows from this head alone, worked out once."""
        found = self._facts.get(fact)
        if found is None:
            found = self._facts[fact] = fact(self)
        return cast("Fact", found)

    def forget(self) -> None:
        """Let go of what its request has no more use for, unless others have the same head."""
        if self.bytes is None:
            self.headers.clear()
            self._facts.clear()

    def body_behind(self, data: bytes) -> bytes | None:
        """The body, where what came is this head again, whatever the length in it, and one whole body."""
        if self.bytes is None or not data.startswith(self.bytes[0]):
            return None
        start, behind = len(self.bytes[0]), self.bytes[1]
        stop = data.find(behind, start, start + _MOST_DIGITS + len(behind))
        digits, end = data[start:stop], stop + len(behind)
        if stop < 0 or not digits.isdigit() or int(digits) != len(data) - end:
            return None
        return data[end:]


class Piece(NamedTuple):
    """A request that came in one piece."""

    before: bytes
    """Its head up to the digits that say how long its body is."""
    behind: bytes
    """The rest of its head."""
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> Piece | None:
        """Take apart what came; None unless it looks like one request with a body of a known length, and no more."""
        line = _LENGTH_LINE.search(data, 0, _LONGEST)
        if line is None:
            return None
        start, stop = line.span(1)
        end = data.find(b"\r\n\r\n", stop, _LONGEST) + 4
        if end < 4 or int(line[1]) != len(data) - end:
            return None
        return cls(data[:start], data[stop:end], data[end:])


class KnownHeads:
    """The heads of the latest POSTs that came in one piece; a bounded number, of bounded length."""

    def __init__(self) -> None:
        self._heads: OrderedDict[tuple[bytes, bytes], Head] = OrderedDict()

    def get(self, piece: Piece) -> Head | None:
        """What the parser made of the same head before, whatever the length in it."""
        key = piece[:2]
        head = self._heads.get(key)
        if head is not None:
            self._heads.move_to_end(key)
        return head

    def learn(self, piece: Piece, scope: HTTPScope) -> Head | None:
        """Note what the parser made of a piece; None where such a head needs the parser each time."""
        if scope["method"] != "POST" or scope["http_version"] != "1.1":
            return None
        if b"\n\r" in piece.before or b"\n\n" in piece.before:  # an empty line: another request came before
            return None
        head = Head(scope)
        # The length is that of one request; whoever needs it has the body.
        if head.names or len(head.headers) > _MOST_HEADERS or not _WANTS_MORE.isdisjoint(head.headers):
            return None
        if head.headers.pop(b"content-length", b"") != b"%d" % len(piece.body):
            return None
        head.bytes = key = piece[:2]
        self._heads[key] = head
        if len(self._heads) > _MOST_KNOWN:
            self._heads.popitem(last=False)
        return head
