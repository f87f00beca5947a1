from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel, ConfigDict, Field, RootModel, Secret, SecretStr

from trunkline.errors import StartRefused
from trunkline.toolsets import catalog, hosted
from trunkline.toolsets.configurable import LARGEST_SCHEMA, config_model, schema_of
from trunkline.toolsets.hosted import toolset


class Account(BaseModel):
    region: str = "eu"


class Config(BaseModel):
    account: Account = Account()
    token: SecretStr
    old_token: SecretStr | None = None
    retries: int = Field(3, ge=0, le=10)


def server(config: object, name: str = "weather") -> MCPServer[Any]:
    made: MCPServer[Any] = MCPServer(name)
    made.trunkline_config = config  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("kind", [MCPServer, Server])
def test_a_server_says_by_one_attribute_what_tenants_may_configure(kind: type[Any]) -> None:
    made = kind("weather")
    assert toolset(made, "weather:server").config is None
    made.trunkline_config = Config
    assert toolset(made, "weather:server").config is Config


def test_the_schema_marks_secrets_as_write_only_and_takes_no_unknown_field() -> None:
    schema = schema_of(Config)
    assert schema["properties"]["token"]["writeOnly"] is True
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["token"]


def test_a_model_that_allows_extra_fields_stays_open() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    assert schema_of(Open)["additionalProperties"] is True


class Hidden(BaseModel):
    accounts: list[SecretStr] = []


class Inner(BaseModel):
    password: SecretStr


class Nested(BaseModel):
    inner: Inner


class Either(BaseModel):
    token: SecretStr | int


class Number(BaseModel):
    pin: list[Secret[int]] = []


class Callback(BaseModel):
    hook: Callable[[], int]


class Remote(BaseModel):
    model_config = ConfigDict(json_schema_extra={"$ref": "https://example.org/schema.json"})
    a: int = 0


class Large(BaseModel):
    a: int = Field(0, description="x" * LARGEST_SCHEMA)


class Tree(BaseModel):
    __test__: ClassVar[bool] = False
    children: list[Tree] = []


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Hidden, "a secret must be a field of the model itself"),
        (Nested, "a secret must be a field of the model itself"),
        (Either, "a secret must be a field of the model itself"),
        (Number, r"a Secret\[...\] is one; write SecretStr"),
        (Callback, "it has no JSON schema"),
        (Remote, "refers to another document"),
        (Large, "larger than 32768 bytes"),
        (Tree, "an object with named fields"),
        (RootModel[list[int]], "an object with named fields"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_model_that_cannot_be_configured_stops_the_start(model: type[BaseModel], sentence: str) -> None:
    with pytest.raises(StartRefused, match=f"of 'weather:server' cannot be used: .*{sentence}"):
        config_model(server(model), "weather:server")


@pytest.mark.parametrize("value", [{"token": "x"}, Config, int], ids=["values", "model", "another class"])
def test_what_is_no_model_stops_the_start(value: object) -> None:
    given = Config(token=SecretStr("x")) if value is Config else value
    with pytest.raises(StartRefused, match=r"must be a class derived from pydantic\.BaseModel"):
        toolset(server(given), "weather:server")


def test_two_toolsets_of_one_class_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [toolset(server(Config, name), name) for name in ("weather", "tides")]
    monkeypatch.setattr(catalog, "discover", lambda: servers)
    with pytest.raises(StartRefused, match="'weather' and 'tides' have the same class"):
        catalog.gather()
    monkeypatch.setattr(catalog, "discover", lambda: (servers[0], servers[0]))
    assert [each.name for each in catalog.gather()] == ["demo", "weather"]
    assert hosted.Toolset("a", servers[0].server, "b").config is None
