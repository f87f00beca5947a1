"""What tenants may configure of a hosted server: a pydantic model that its author puts beside it.

`server.trunkline_config = Config` is all that an author writes, and `trunkline.current_config(Config)` in a handler
gives the calling tenant's. The model is checked when the server is loaded: what is wrong with it stops the start.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import orjson
from pydantic import BaseModel, Secret
from pydantic.errors import PydanticUserError
from pydantic.json_schema import PydanticJsonSchemaWarning

from trunkline.errors import StartRefused

ATTRIBUTE = "trunkline_config"
LARGEST_SCHEMA = 32_768
"""Bytes of a model's JSON schema."""


def config_model(found: object, source: str) -> type[BaseModel] | None:
    """The model of what tenants may configure of a server object, or None where its author declares none.

    Raises:
        StartRefused: it is no model, or has a form that cannot be configured; the sentence says which.
    """
    model = getattr(found, ATTRIBUTE, None)
    if model is None:
        return None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise StartRefused(f"The {ATTRIBUTE} of '{source}' must be a class derived from pydantic.BaseModel.")
    problem = _problem(model)
    if problem:
        raise StartRefused(f"The {ATTRIBUTE} of '{source}' cannot be used: {problem}")
    return model


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema, by the names under which it reads its fields.

    It is closed unless the model allows extra fields: a secret whose name is misspelt must not be kept in clear.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # a default that JSON cannot write is left out
        return {"additionalProperties": False, **model.model_json_schema()}


def _problem(model: type[BaseModel]) -> str:
    try:
        schema = schema_of(model)
    except (PydanticUserError, ValueError, TypeError) as error:
        return f"it has no JSON schema ({type(error).__name__})."
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), Mapping):
        return "it must be an object with named fields."
    if len(orjson.dumps(schema)) > LARGEST_SCHEMA:
        return f"its JSON schema is larger than {LARGEST_SCHEMA} bytes."
    if any(not str(reference).startswith("#") for reference in _all(schema, "$ref")):
        return "its JSON schema refers to another document."
    if any(_all({**schema, "properties": _unmarked(schema["properties"])}, "writeOnly")):
        return "a secret must be a field of the model itself, not of something within it."
    if any(isinstance(kind, type) and issubclass(kind, Secret) for kind in _annotations(model, set())):
        return "its JSON schema does not say that a Secret[...] is one; write SecretStr."
    return ""


def _unmarked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level fields without the mark of a secret, which may also stand in the alternative beside null."""
    return {
        name: {
            **{key: value for key, value in field.items() if key != "writeOnly"},
            **({"anyOf": []} if _is_secret_or_null(field) else {}),
        }
        for name, field in fields.items()
    }


def _is_secret_or_null(field: Mapping[str, Any]) -> bool:
    ways = field.get("anyOf", ())
    return sorted(way.get("type") == "null" or way.get("writeOnly") is True for way in ways) == [True, True]


def _annotations(kind: object, seen: set[type[BaseModel]]) -> Iterator[object]:
    """A type and all that it is made of."""
    yield get_origin(kind) or kind
    for part in get_args(kind):
        yield from _annotations(part, seen)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
        seen.add(kind)
        for field in kind.model_fields.values():
            yield from _annotations(field.annotation, seen)


def _all(schema: object, key: str) -> Iterator[Any]:
    if isinstance(schema, Mapping):
        if key in schema:
            yield schema[key]
        for value in schema.values():
            yield from _all(value, key)
    elif isinstance(schema, list):
        for value in schema:
            yield from _all(value, key)
