"""Examples in the description of the API, by names of fields and parameters: the same looks the same everywhere.

What has an example where it is declared, or says by its type what it is, keeps that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_HASH: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_USER: Final = "01a20489366d755ebb6910193acaf9f6"
_KEY: Final = f"key_{_USER}"
_URL: Final = "https://trunkline.example.com/t/acme"
_CURSOR: Final = "AZr1a2b3c4d5e6f7"

EXAMPLES: Final[Mapping[str, Any]] = {
    "Idempotency-Key": "3f0c9a52-issue-key-for-ci",
    "If-Match": '"1795651200000"',
    "actor": _KEY,
    "actor_kind": "key",
    "address": "192.0.2.7",
    "addresses": ["192.0.2.0/24"],
    "api_pod": "trunkline-api-6d4f-x2k9",
    "arguments_hash": _HASH,
    "burst": 100,
    "bytes_in": 412,
    "bytes_out": 96,
    "calls": 1200,
    "code": _USER,
    "compute_ms": 8342.5,
    "compute_us": 1830,
    "created_by": f"user:{_USER}",
    "csrf_token": "q1w2e3r4t5y6u7i8",
    "cursor": _CURSOR,
    "detail": {"scopes": ["mcp:call"]},
    "duration_ms": 2.4,
    "email": "ada@example.com",
    "entry": _USER,
    "errors": 3,
    "hash": _HASH,
    "id": _USER,
    "in_flight": 20,
    "instance": "urn:uuid:01a20489-366d-755e-bb69-10193acaf9f6",
    "invitation": _USER,
    "key": _KEY,
    "key_id": _KEY,
    "kid": _USER,
    "kind": "regular",
    "last-event-id": "1041",
    "live_keys": 12,
    "mcp_url": f"{_URL}/mcp",
    "monthly_calls": 100000,
    "monthly_calls_soft": 80000,
    "monthly_compute": 36000,
    "monthly_compute_soft": 30000,
    "name": "ci",
    "next": _CURSOR,
    "pointer": "/expires",
    "rate": 50.0,
    "replaced_by": _KEY,
    "request_id": "7",
    "scopes": ["mcp:call", "mcp:read"],
    "secret": "a-secret-that-was-sent-by-mail",
    "seq": 1041,
    "session": _HASH,
    "session_id": "40c7301a1ae8167e84f103f6e4982ef6",
    "sessions": 100,
    "signature": "b64c1e" + "0" * 122,
    "signer": _HASH,
    "snippets": {"claude-code": f"claude mcp add --transport http acme {_URL}/mcp"},
    "sse_url": f"{_URL}/sse",
    "status": 409,
    "target": "add",
    "tenant": "acme",
    "title": "Conflict",
    "token": "tlo_shown_once",
    "tool": "add",
    "tools": ["add", "files_*"],
    "type": "https://trunkline.example.com/docs/problems/conflict",
    "url": _URL,
    "user": _USER,
    "version": "0.1.0",
    "worker_pod": "trunkline-worker-7c9b-p4m2",
}
_OF_SCHEMA: Final[Mapping[tuple[str, str], Any]] = {
    ("FieldProblem", "detail"): "A number and s, m, h, d or w.",
    ("Problem", "detail"): "There is a tenant 'acme' already; choose another slug.",
    ("FirstKey", "id"): _KEY,
    ("OperatorAnswer", "name"): "Grace",
    ("SignUpBody", "code"): "a-code-that-was-handed-out",
}
_SAID: Final = frozenset({"example", "examples", "const", "enum", "default", "format", "$ref"})
_PLAIN: Final = frozenset({"boolean", "null"})


def add_examples(described: dict[str, Any]) -> None:
    """Give each field and parameter of an OpenAPI document an example that has none."""
    for name, field, schema in fields_of(described):
        if not speaks(schema):
            example = _OF_SCHEMA.get((name, field), EXAMPLES.get(field))
            if example is not None:
                schema["examples"] = [example]
    for parameter in parameters_of(described):
        if "example" not in parameter and not speaks(parameter["schema"]) and parameter["name"] in EXAMPLES:
            parameter["example"] = EXAMPLES[parameter["name"]]


def fields_of(described: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each field of the document's schemas: the schema's name, the field's, and what is said of it."""
    for name, schema in described["components"]["schemas"].items():
        for field, said in schema.get("properties", {}).items():
            yield name, field, said


def parameters_of(described: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each parameter of each operation."""
    for operations in described["paths"].values():
        for operation in operations.values():
            yield from operation.get("parameters", [])


def speaks(schema: Mapping[str, Any]) -> bool:
    """Whether a schema shows by itself what it stands for."""
    if not _SAID.isdisjoint(schema) or schema.get("type") in _PLAIN:
        return True
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return all(speaks(each) for each in schema[several])
    if schema.get("type") == "array":
        return speaks(schema.get("items", {}))
    return "properties" in schema
