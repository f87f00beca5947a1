"""What a configuration may be, and what is said of one that may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr

import trunkline
from trunkline.control_errors import ValidationFailed
from trunkline.tenants.configs import check, secret_names
from trunkline.toolsets.configurable import schema_of

CANARY = "canary-of-a-secret"


class Config(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    token: SecretStr = Field(min_length=30)
    old: SecretStr | None = None
    station: int = Field(3, ge=0, le=10, alias="stationNumber")
    mode: str = Field("a", pattern="^[ab]$")


SCHEMA = schema_of(Config)


def test_secrets_are_the_write_only_fields() -> None:
    assert secret_names(SCHEMA) == {"token", "old"}
    assert secret_names({"type": "object"}) == frozenset()


def test_what_fits_is_taken() -> None:
    check(SCHEMA, {"token": "x" * 30, "stationNumber": 7})


def test_a_secret_that_is_kept_need_not_be_given_again_and_is_not_measured() -> None:
    check(SCHEMA, {"stationNumber": 7}, kept={"token"})


@pytest.mark.parametrize(
    ("values", "pointer", "sentence"),
    [
        ({"stationNumber": CANARY}, "/config/stationNumber", 'The value is not of type "integer".'),
        ({"token": CANARY}, "/config/token", "The value is shorter than 30 characters."),
        (
            {"old": [CANARY]},
            "/config/old",
            "The value is not valid under any of",
        ),
        ({"mode": CANARY}, "/config/mode", 'The value does not match "^[ab]$".'),
        ({"stationNumber": 11}, "/config/stationNumber", "The value is greater than the maximum of 10."),
        ({"tokem": CANARY}, "/config", "Additional properties are not allowed ('tokem' was unexpected)."),
    ],
)
def test_what_does_not_fit_is_told_by_field_and_never_by_value(
    values: dict[str, Any], pointer: str, sentence: str
) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        check(SCHEMA, {"token": "x" * 30} | values)
    assert [each.pointer for each in refusal.value.errors] == [pointer]
    assert refusal.value.errors[0].detail.startswith(sentence)
    assert CANARY not in str(refusal.value)


def test_a_field_that_is_missing_is_told() -> None:
    with pytest.raises(ValidationFailed) as refusal:
        check(SCHEMA, {})
    assert [each.detail for each in refusal.value.errors] == ['"token" is a required property.']


values_within = st.recursive(
    st.just(CANARY), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("k"), inner)
)


@given(st.dictionaries(st.sampled_from(["token", "old", "stationNumber", "mode", "else"]), values_within))
def test_no_value_is_ever_in_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        check(SCHEMA, values | {"mode": [CANARY]})
    said = refusal.value.message + "".join(pointer + detail for pointer, detail in refusal.value.errors)
    assert CANARY not in said


def test_pointers_are_escaped_as_rfc_6901_wants() -> None:
    schema = {"type": "object", "properties": {"a/b~c": {"type": "integer"}}}
    with pytest.raises(ValidationFailed) as refusal:
        check(schema, {"a/b~c": "x"})
    assert refusal.value.errors[0].pointer == "/config/a~1b~0c"


def test_a_schema_never_fetches_another() -> None:
    with pytest.raises(Exception, match="Retrieval is disabled"):
        check({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}, {"a": 1})


def test_secrets_of_toolsets_are_decrypted_in_one_module_which_workers_alone_import() -> None:
    package = Path(trunkline.__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    users = {name for name, text in sources.items() if "config_reader import" in text}
    assert users
    assert {name.split("/")[0] for name in users} == {"worker"}
    assert ".open(" not in sources["tenants/configs.py"]
    assert "PURPOSE" in sources["tenants/config_reader.py"]
    with_keys = {name for name, text in sources.items() if "configs import" in text and "PURPOSE" in text}
    # The other one seals anew what it opens, and hands nothing out; the command line alone has it.
    assert with_keys == {"tenants/config_reader.py", "tenants/rewrapping.py"}
    assert {name for name, text in sources.items() if "rewrapping import" in text} == {"cli/secrets.py"}
    assert ".open(" not in sources["tenants/rewrapping.py"]
