"""Reading the JSON-RPC envelope of what a client posts: what it is, before anything is done with it.

JSON-RPC 2.0 as MCP narrows it: ids are strings or integers, params an object, and batches in one revision alone.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

import orjson

from trunkline.errors import InvalidMessage, UnparsableMessage

_LONGEST_ID = 256
_LONGEST_METHOD = 256
_LARGEST_BATCH = 100


class Message(NamedTuple):
    """One JSON-RPC message."""

    kind: Literal["request", "notification", "response"]
    id: bytes
    """The id as JSON; empty for a notification."""
    method: str
    """Empty for a response."""
    params: dict[str, Any]


def parse(body: bytes, most_elements: int) -> Message:
    """Read one message.

    Raises:
        UnparsableMessage: not JSON, too deep, or an object names a key twice.
        InvalidMessage: JSON, but not one JSON-RPC message; or more than `most_elements` values.
    """
    return _classify(read_json(body, most_elements))


class Part(NamedTuple):
    """One message of a batch."""

    body: bytes
    message: Message | InvalidMessage
    """What it is, or why it is none."""


def parse_batch(body: bytes, most_elements: int) -> Message | list[Part]:
    """Read one message, or a batch of them (revision 2025-03-26; JSON-RPC 2.0, section 6).

    Raises:
        UnparsableMessage: as for `parse`.
        InvalidMessage: as for `parse`, or a batch of no messages or more than 100.
    """
    value = read_json(body, most_elements)
    if not isinstance(value, list):
        return _classify(value)
    if not 0 < len(value) <= _LARGEST_BATCH:
        raise InvalidMessage(f"A batch has 1 to {_LARGEST_BATCH} messages.")
    return [_part(each) for each in value]


def _part(value: object) -> Part:
    body = orjson.dumps(value)
    try:
        return Part(body, _classify(value))
    except InvalidMessage as error:
        return Part(body, error)


def read_json(body: bytes, most_elements: int) -> object:
    """The JSON document that a body is.

    Raises:
        UnparsableMessage: not JSON, too deep, or an object names a key twice.
        InvalidMessage: more than `most_elements` values.
    """
    value = _load(body)
    # Every value but the first costs a comma or a bracket, which text may hold as well: a bound first, then a count.
    if (
        len(body) > most_elements
        and body.count(b",") + body.count(b"[") + body.count(b"{") > most_elements
        and _count(value) > most_elements
    ):
        raise InvalidMessage(f"The message has more than {most_elements} values.")
    return value


def _count(value: object) -> int:
    """How many values a document has, those inside others included."""
    count, waiting = 0, [value]
    while waiting:
        found = waiting.pop()
        count += 1
        if isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return count


def _load(body: bytes) -> object:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UnparsableMessage(f"The body is not JSON: {error}") from None
    try:
        # Most clients send just what a serializer prints. Printed again it is the same, unless a key came twice
        # (the first of two is lost) or a number lost digits; only then, or where the client formats otherwise, is the
        # slow look needed.
        printed = orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise UnparsableMessage("The body is nested too deeply.") from None
    if printed != body:
        _look_closely(body)
    return value


def _look_closely(body: bytes) -> None:
    """Refuse keys that come twice, and whole numbers beyond 64 bits, which would arrive rounded."""

    def check(pairs: list[tuple[str, object]]) -> None:
        if len({key for key, _ in pairs}) != len(pairs):
            raise UnparsableMessage("An object in the body names a key twice.")

    try:
        json.loads(body, object_pairs_hook=check, parse_int=_check_int)
    except (ValueError, RecursionError):
        raise UnparsableMessage from None


def _check_int(digits: str) -> int:
    if len(digits) > 18 and not -(2**63) <= int(digits[:24]) < 2**64:
        raise UnparsableMessage("A whole number in the body needs more than 64 bits.")
    return int(digits[:24])


def _classify(value: object) -> Message:
    if isinstance(value, list):
        raise InvalidMessage("Batches of messages are not part of this protocol version; send them one by one.")
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise InvalidMessage('A message is an object with "jsonrpc": "2.0".')
    if "method" not in value:
        if ("result" in value) == ("error" in value) or "id" not in value:
            raise InvalidMessage("A message has a method, or it answers one with an id and a result or an error.")
        return Message("response", _read_id(value["id"]), "", {})
    method = value["method"]
    if not isinstance(method, str) or not 0 < len(method) <= _LONGEST_METHOD:
        raise InvalidMessage("The method of a message is a short string.")
    params = value.get("params", {})
    if not isinstance(params, dict):
        raise InvalidMessage("The params of a message are an object.")
    if "id" not in value:
        return Message("notification", b"", method, params)
    return Message("request", _read_id(value["id"]), method, params)


def _read_id(value: object) -> bytes:
    # bool is an int in Python, not in JSON.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidMessage("The id of a message is a string or an integer.")
    if isinstance(value, str) and len(value) > _LONGEST_ID:
        raise InvalidMessage(f"The id of a message has at most {_LONGEST_ID} characters.")
    return orjson.dumps(value)
