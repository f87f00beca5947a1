from __future__ import annotations

import contextlib
import json
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.api.messages import Message, Part, parse, parse_batch
from trunkline.errors import InvalidMessage, UnparsableMessage

MOST = 1000
integers = st.integers(min_value=-(2**63), max_value=2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)
objects = st.dictionaries(text, values, max_size=4)
ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=256) | integers
methods = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_no_message(body: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        assert isinstance(parse(body, MOST), Message)


@given(values)
def test_any_json_is_a_message_or_no_message(value: object) -> None:
    with contextlib.suppress(InvalidMessage):
        assert isinstance(parse(orjson.dumps(value), MOST), Message)


@given(st.fixed_dictionaries({}, optional={
    "jsonrpc": st.just("2.0") | scalars, "id": values, "method": values, "params": values, "result": values,
    "error": values,
}))  # fmt: skip
def test_whatever_looks_nearly_like_a_message_is_one_or_none(value: dict[str, Any]) -> None:
    try:
        message = parse(orjson.dumps(value), MOST)
    except InvalidMessage:
        return
    assert value["jsonrpc"] == "2.0"
    assert isinstance(message.params, dict)
    assert (message.kind == "response") == ("method" not in value)
    assert (message.id == b"") == (message.kind == "notification")


@given(ids, methods, objects, st.booleans())
def test_every_request_is_read_as_what_it_is(
    request_id: Any, method: str, params: dict[str, Any], pretty: bool
) -> None:
    value = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    body = json.dumps(value, indent=1).encode() if pretty else orjson.dumps(value)
    message = parse(body, MOST)
    assert (message.kind, message.method, message.params) == ("request", method, params)
    assert orjson.loads(message.id) == request_id


@given(methods)
def test_without_an_id_it_is_a_notification(method: str) -> None:
    assert parse(orjson.dumps({"jsonrpc": "2.0", "method": method}), MOST) == Message("notification", b"", method, {})


@given(ids, st.sampled_from(["result", "error"]), values)
def test_with_a_result_or_an_error_it_is_a_response(request_id: Any, kind: str, value: object) -> None:
    assert parse(orjson.dumps({"jsonrpc": "2.0", "id": request_id, kind: value}), MOST).kind == "response"


@given(st.text('ab\u00e9\\"\n', min_size=1, max_size=4), scalars, scalars, st.integers(0, 3), st.booleans())
def test_a_key_that_comes_twice_is_refused_wherever_and_however_it_is_written(
    key: str, first: object, second: object, depth: int, escaped: bool
) -> None:
    name = json.dumps(key).encode()
    again = b'"' + b"".join(b"\\u%04x" % ord(letter) for letter in key) + b'"' if escaped else name
    inner = b"{%b:%b,%b:%b}" % (name, orjson.dumps(first), again, orjson.dumps(second))
    for _ in range(depth):
        inner = b'{"x":[%b]}' % inner
    with pytest.raises(UnparsableMessage, match="twice"):
        parse(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"p":%b}}' % inner, MOST)


def test_a_body_with_more_values_than_allowed_is_refused_before_it_is_read() -> None:
    params = {"a": list(range(2000))}
    with pytest.raises(InvalidMessage, match="values"):
        parse(orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "params": params}), MOST)


@pytest.mark.parametrize("depth", [250, 1000, 100_000])
def test_a_deep_body_is_refused_however_deep(depth: int) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":' + b"[" * depth + b"]" * depth + b"}}"
    if depth == 250:
        assert parse(body, 10**6).kind == "request"
        return
    with pytest.raises(UnparsableMessage):
        parse(body, 10**6)


@pytest.mark.parametrize("number", [b"1" + b"0" * 20, b"-" + b"9" * 25, b"9" * 5000, b"18446744073709551616"])
def test_a_whole_number_beyond_64_bits_is_refused_rather_than_rounded(number: bytes) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":%b}}' % number
    with pytest.raises(UnparsableMessage):
        parse(body, MOST)


@pytest.mark.parametrize("number", [b"18446744073709551615", b"-9223372036854775808", b"0.1"])
def test_numbers_of_64_bits_pass(number: bytes) -> None:
    assert parse(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":%b}}' % number, MOST).kind == "request"


def test_text_with_many_commas_is_one_value() -> None:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"csv": "1,2,3\n" * MOST}})
    assert parse(body, MOST).kind == "request"


@given(st.lists(values, min_size=1, max_size=5))
def test_a_batch_has_a_part_for_each_value_be_it_a_message_or_none(batch: list[Any]) -> None:
    parts = parse_batch(orjson.dumps(batch), MOST)
    assert isinstance(parts, list)
    assert [orjson.loads(part.body) for part in parts] == batch
    assert all(isinstance(part, Part) and isinstance(part.message, Message | InvalidMessage) for part in parts)


@given(ids, methods, objects)
def test_a_message_of_a_batch_is_read_as_it_is_alone(request_id: Any, method: str, params: dict[str, Any]) -> None:
    body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    assert parse_batch(body, MOST) == parse(body, MOST)
    (part,) = cast("list[Part]", parse_batch(b"[" + body + b"]", MOST))
    assert part == (body, parse(body, MOST))


def test_a_batch_is_bounded_and_has_something_in_it() -> None:
    for size, fits in ((0, False), (1, True), (100, True), (101, False)):
        body = orjson.dumps([{"jsonrpc": "2.0", "method": "m"}] * size)
        if fits:
            assert len(cast("list[Part]", parse_batch(body, MOST))) == size
        else:
            with pytest.raises(InvalidMessage, match="batch"):
                parse_batch(body, MOST)


def test_the_rules_for_one_body_hold_for_a_batch() -> None:
    with pytest.raises(UnparsableMessage, match="twice"):
        parse_batch(b'[{"jsonrpc":"2.0","method":"m","params":{"a":1,"a":2}}]', MOST)
    with pytest.raises(InvalidMessage, match="values"):
        parse_batch(orjson.dumps([{"jsonrpc": "2.0", "method": "m", "params": {"a": [1] * 600}}] * 2), MOST)
