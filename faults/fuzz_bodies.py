"""Bodies to post, from messages as they should be to noise, and a judge that says what each deserves.

The judge knows the specifications and what `docs/architecture.md` promises, not the program: it reads with Python's
own strict reader and says which answers are right. Where the documents leave an answer open, it names both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

OK, PARSE_ERROR, INVALID_REQUEST = 202, -32700, -32600
LARGEST_BODY = 1_048_576
MOST_VALUES = 100_000
LONGEST_NAME = 256
"""Characters of a method, and of an id that is text."""
CERTAINLY_SHALLOW, CERTAINLY_DEEP = 200, 1_100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a body deserves, and what it is if it is taken."""

    right: frozenset[int]
    """202, or the JSON-RPC codes of a 400, of which any is right."""
    request: str | None = None
    """The id of a request, as JSON; None for anything else."""
    method: str = ""
    cancels: str | None = None
    """The id that `notifications/cancelled` names, as JSON."""

    @property
    def calls_tool(self) -> bool:
        """Whether a key needs the scope of calling tools for it."""
        return self.method == "tools/call"


class _Unreadable(ValueError):
    """JSON as RFC 8259 has it, but not as a message may be."""


@lru_cache(64)
def judge(body: bytes) -> Verdict:
    """Say what a body deserves."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole, parse_constant=_refuse_constant
        )
    except RecursionError:
        return Verdict(frozenset({PARSE_ERROR, INVALID_REQUEST}))
    except ValueError:
        return Verdict(frozenset({PARSE_ERROR}))
    verdict = _classify(value)
    depth, count, odd = _measure(value)
    right = set(verdict.right)
    if depth >= CERTAINLY_DEEP:
        right = {PARSE_ERROR}
    elif depth > CERTAINLY_SHALLOW or odd:
        right.add(PARSE_ERROR)
    if count > MOST_VALUES:
        right = (right - {OK}) | {INVALID_REQUEST}
    return Verdict(frozenset(right), verdict.request, verdict.method, verdict.cancels)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unreadable("a key comes twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > 30 or not -(2**63) <= int(digits) < 2**64:
        raise _Unreadable("more than 64 bits")
    return int(digits)


def _refuse_constant(name: str) -> object:
    raise _Unreadable(name)


def _measure(value: object) -> tuple[int, int, bool]:
    """How deep it is, how many values it has, and whether JSON readers disagree about one of them."""
    deepest, count, odd, waiting = 0, 0, False, [(value, 1)]
    while waiting:
        found, depth = waiting.pop()
        deepest, count = max(deepest, depth), count + 1
        if isinstance(found, dict):
            odd = odd or any(map(_lone_surrogate, found))
            waiting += [(inner, depth + 1) for inner in found.values()]
        elif isinstance(found, list):
            waiting += [(inner, depth + 1) for inner in found]
        elif isinstance(found, str):
            odd = odd or _lone_surrogate(found)
        elif isinstance(found, float):
            odd = odd or found in {float("inf"), float("-inf")}
    return deepest, count, odd


def _lone_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def _classify(value: object) -> Verdict:
    """What JSON-RPC 2.0 makes of a document, as MCP narrows it: no batches, params an object, ids text or whole."""
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0" or not isinstance(value["jsonrpc"], str):
        return _invalid()
    if "method" not in value:
        return _response(value)
    method, params = value["method"], value.get("params", {})
    if not isinstance(method, str) or not 0 < len(method) <= LONGEST_NAME or not isinstance(params, dict):
        return _invalid()
    if "id" not in value:
        return _notification(method, params, value)
    right = _id(value["id"])
    if "result" in value or "error" in value:
        right |= {INVALID_REQUEST}
    return Verdict(right, json.dumps(value["id"]), method)


def _invalid() -> Verdict:
    return Verdict(frozenset({INVALID_REQUEST}))


def _response(value: dict[str, Any]) -> Verdict:
    if ("result" in value) == ("error" in value) or "id" not in value:
        return _invalid()
    right = _id(value["id"])
    if "error" in value and value["id"] is None:  # JSON-RPC 2.0, section 5: the id of what was not understood
        right |= {OK}
    return Verdict(right)


def _notification(method: str, params: dict[str, Any], value: dict[str, Any]) -> Verdict:
    right, cancels = frozenset({OK}), None
    if "result" in value or "error" in value:
        right |= {INVALID_REQUEST}
    if method == "notifications/cancelled":
        named = params.get("requestId")
        right = _id(named, longest=None)
        cancels = json.dumps(named)
    return Verdict(right, None, method, cancels)


def _id(value: object, longest: int | None = LONGEST_NAME) -> frozenset[int]:
    if isinstance(value, float) and value.is_integer():  # JSON has one kind of number; its readers have two
        return frozenset({OK, INVALID_REQUEST})
    if isinstance(value, bool) or not isinstance(value, int | str):
        return frozenset({INVALID_REQUEST})
    if isinstance(value, str) and longest is not None and len(value) > longest:
        return frozenset({INVALID_REQUEST})
    return frozenset({OK})


# Strategies.

_anything = st.text(max_size=12)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=True, allow_infinity=True)
_scalars = st.none() | st.booleans() | _numbers | _text
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3), max_leaves=6
)
_ids = st.integers(0, 20) | st.text("abc-", min_size=1, max_size=5)
_odd_ids: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        1.5,
        1.0,
        -0.0,
        [],
        {},
        "",
        "x" * 256,
        "x" * 257,
        2**64 - 1,
        2**64,
        -(2**63),
        "\u0000",
        "\ud800",
        "é",
    ]
)
_methods = st.sampled_from(
    [
        "ping", "tools/call", "tools/list", "initialize", "resources/list", "prompts/list", "logging/setLevel",
        "completion/complete", "notifications/initialized", "notifications/cancelled", "notifications/progress",
        "no/such", "rpc.discover", "x" * 256, "é", "a\nb", "__init__", "tools/call\u0000",
    ]
)  # fmt: skip
_odd_methods: st.SearchStrategy[Any] = st.sampled_from(["", "x" * 257, 7, None, ["ping"], {}, True])
_tools = st.sampled_from(["echo", "add", "whoami", "nothing", "", "../echo", "é" * 80])
_params = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries(
        {"name": _tools, "arguments": st.fixed_dictionaries({}, optional={"text": _text, "a": _values, "b": _values})}
    ),
    st.fixed_dictionaries({"requestId": _ids | _odd_ids}),
    st.dictionaries(_text, _values, max_size=4),
    st.fixed_dictionaries({"_meta": st.fixed_dictionaries({"progressToken": _values})}),
    st.fixed_dictionaries({"protocolVersion": _text | st.just("2025-06-18"), "capabilities": _values}),
)
messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": _methods}, optional={"id": _ids, "params": _params}
)
"""Messages as they should be, not written down yet."""
_nearly = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | st.sampled_from(["1.0", "2", 2.0, 2, None, "2.0 ", "\u0662.0"]),
        "id": _ids | _odd_ids,
        "method": _methods | _odd_methods,
        "params": _params | _values,
        "result": _values,
        "error": _values,
        "extra": _values,
    },
)
_printed: st.SearchStrategy[Callable[[Any], str]] = st.sampled_from(
    [
        lambda value: json.dumps(value, separators=(",", ":")),
        json.dumps,
        lambda value: json.dumps(value, indent=2),
        lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
        lambda value: "\r\n\t " + json.dumps(value, sort_keys=True) + "\n",
    ]
)


@st.composite
def _printed_messages(draw: st.DrawFn, kind: st.SearchStrategy[Any]) -> bytes:
    printed: str = draw(_printed)(draw(kind))
    return printed.encode("utf-8", "surrogatepass")


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A message in which a few bytes were changed, left out or put in."""
    body = bytearray(draw(_printed_messages(messages)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(body) - 1, 0)))
        body[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(body)


@st.composite
def _numbers_written_oddly(draw: st.DrawFn) -> bytes:
    number = draw(
        st.from_regex(r"\A-?[0-9]{1,25}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?\Z").map(str.encode)
        | st.sampled_from([b"1e400", b"-0", b"01", b"+1", b".5", b"1.", b"0x10", b"NaN", b"Infinity", b"1_000"])
    )
    place = draw(st.sampled_from([b'"id":%b', b'"id":1,"params":{"a":%b}', b'"id":1,"params":%b']))
    return b'{"jsonrpc":"2.0","method":"ping",' + place % number + b"}"


@st.composite
def _twice(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from([b"id", b"method", b"jsonrpc", b"params", b"x", b"\\u0069d"]))
    value = draw(st.sampled_from([b"1", b'"2.0"', b"{}", b'"ping"']))
    return b'{"jsonrpc":"2.0","id":3,"method":"ping","params":{"x":1},"%b":%b}' % (name, value)


@st.composite
def _deep(draw: st.DrawFn) -> bytes:
    depth = draw(st.sampled_from([10, 150, 195, 250, 255, 260, 1_000, 1_024, 1_200, 5_000, 100_000]))
    opened, closed = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))
    inner = opened * depth + b"1" + closed * draw(st.sampled_from([depth, depth, depth, depth - 1]))
    return b'{"jsonrpc":"2.0","id":4,"method":"ping","params":{"a":' + inner + b"}}"


@st.composite
def _encoded(draw: st.DrawFn) -> bytes:
    text = json.dumps(draw(messages), ensure_ascii=False)
    encoding = draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp1252", "cp037"]))
    return text.encode(encoding, "replace")


@st.composite
def _wide(draw: st.DrawFn) -> bytes:
    count = draw(st.sampled_from([99_000, 101_000]))
    return b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"a":[' + b"1," * count + b"1]}}"


@st.composite
def _large(draw: st.DrawFn) -> bytes:
    size = draw(st.sampled_from([60_000, 70_000, 900_000, LARGEST_BODY, LARGEST_BODY + 1, 2_000_000]))
    frame = b'{"jsonrpc":"2.0","id":6,"method":"ping","params":{"a":"%b"}}'
    return frame % (b"x" * (size - len(frame) + 2))


_batches = st.lists(messages, max_size=3).map(lambda value: json.dumps(value).encode())
_common = (
    *[_printed_messages(messages)] * 3,
    *[_printed_messages(_nearly)] * 2,
    _printed_messages(_values),
    _damaged(),
    _damaged(),
    st.binary(max_size=60),
    _numbers_written_oddly(),
    _twice(),
    _deep(),
    _encoded(),
    _batches,
    _anything.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
_rare = {61: _large(), 122: _wide()}

bodies: st.SearchStrategy[bytes] = st.integers(0, 149).flatmap(
    lambda number: _rare.get(number, _common[number % len(_common)])
)
"""Anything that a client could post; what is large is rare, since it is slow."""
good_bodies: st.SearchStrategy[bytes] = _printed_messages(messages)
"""Messages as they should be, or nearly: `judge` says which."""
