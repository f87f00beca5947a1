"""Every field and parameter of the API is described with an example, which is what it is an example of."""

from __future__ import annotations

from typing import Any, cast

import jsonschema_rs
import pytest

from trunkline.api.control.app import make_control
from trunkline.api.control.examples import EXAMPLES, fields_of, parameters_of, speaks


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return make_control(cast("Any", None)).openapi()


def test_every_field_and_every_parameter_has_an_example(described: dict[str, Any]) -> None:
    assert [(name, field) for name, field, schema in fields_of(described) if not speaks(schema)] == []
    bare = [each["name"] for each in parameters_of(described) if "example" not in each and not speaks(each["schema"])]
    assert bare == []


def test_examples_are_of_the_kind_that_they_are_given_for(described: dict[str, Any]) -> None:
    definitions = {"components": described["components"]}
    for name, field, schema in fields_of(described):
        for example in schema.get("examples", []):
            assert jsonschema_rs.is_valid({**schema, **definitions}, example), (name, field, example)
    for each in parameters_of(described):
        if "example" in each:
            assert jsonschema_rs.is_valid({**each["schema"], **definitions}, each["example"]), each["name"]


def test_no_example_is_left_over(described: dict[str, Any]) -> None:
    there = {field for _, field, _ in fields_of(described)} | {each["name"] for each in parameters_of(described)}
    assert set(EXAMPLES) <= there
