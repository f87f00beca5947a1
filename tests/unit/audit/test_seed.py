from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.audit.seed import arguments_hash, seed
from trunkline.errors import InvalidMessage

KNOWN: dict[str, Any] = {"actor": "key_1", "pod": "api-1", "target": "add", "arguments": {"a": 3, "b": 5}, "size": 90}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_seed_says_who_called_what_where():
    digest = base64.b64encode(hashlib.sha256(b'{"a":3,"b":5}').digest()).decode()
    assert orjson.loads(seed(**KNOWN)) == ["key_1", "add", "api-1", digest, 90]


def test_arguments_are_not_in_the_seed():
    assert b"hunter2" not in seed(**KNOWN | {"arguments": {"password": "hunter2"}})


def test_a_key_given_as_a_tools_name_is_not_in_the_seed():
    assert b"c2VjcmV0" not in seed(**KNOWN | {"target": "tlk_c2VjcmV0.c2VjcmV0.c2VjcmV0"})


def test_what_a_client_chose_is_cut():
    assert orjson.loads(seed(**KNOWN | {"target": "é" * 500}))[1] == "é" * 128


def test_a_seed_is_one_line_whatever_the_client_sends():
    assert b"\n" not in seed(**KNOWN | {"target": "a\nb"})


def test_a_name_that_postgres_could_not_keep_is_made_keepable():
    assert orjson.loads(seed(**KNOWN | {"target": "a\0b"}))[1] == "a\ufffdb"


@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_the_order_of_keys_does_not_change_the_hash(arguments):
    assert arguments_hash(dict(reversed(arguments.items()))) == arguments_hash(arguments)


def test_different_arguments_have_different_hashes():
    assert len({arguments_hash(value) for value in ({}, {"a": 1}, {"a": "1"}, {"a": [1]}, {"b": 1}, None)}) == 6


def test_arguments_nested_too_deeply_are_refused_as_the_clients_mistake():
    with pytest.raises(InvalidMessage, match="nested too deeply"):
        seed(**KNOWN | {"arguments": orjson.loads(b"[" * 400 + b"]" * 400)})
