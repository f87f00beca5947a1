from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel, Field, SecretStr
from tests.control import ControlRig, Person

from trunkline.db import Database
from trunkline.tenants import hosted
from trunkline.tenants.hosted import HostedToolset
from trunkline.toolsets.configurable import schema_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "canary-of-a-secret-token"


class Weather(BaseModel):
    token: SecretStr
    region: str = Field("eu", pattern="^[a-z]{2}$")


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def workers_host_two(control: ControlRig) -> AsyncIterator[None]:
    database = Database(control.settings.database_url, process="test")
    weather = HostedToolset("weather", "Weather", "weather:server", schema_of(Weather))
    await hosted.announce(database, [HostedToolset("demo", "Demo"), weather])
    yield
    await database.aclose()


async def signed_up(control: ControlRig) -> tuple[str, Person]:
    made, owner = await control.sign_up()
    return f"/v1/tenants/{made['tenant']['slug']}/toolsets", owner


async def with_weather(control: ControlRig, config: dict[str, Any] | None = None) -> tuple[str, Person]:
    base, owner = await signed_up(control)
    assert (await control.call("PUT", f"{base}/weather", owner.token)).status_code == 200
    if config is not None:
        put = await control.call("PUT", f"{base}/weather/config", owner.token, {"config": config})
        assert put.status_code == 200, put.text
    return base, owner


async def test_what_can_be_switched_on_is_told_to_whoever_is_known(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    for credential in (owner.token, made["key"]["secret"]):
        answer = await control.call("GET", "/v1/toolsets", credential)
        assert [each["name"] for each in answer.json()["items"]] == ["demo", "weather"]
    assert answer.json()["items"][0]["config_schema"] is None
    assert answer.json()["items"][1]["config_schema"]["properties"]["token"]["writeOnly"] is True
    assert (await control.call("GET", "/v1/toolsets")).status_code == 401


async def test_a_tenant_switches_a_toolset_on_and_off(control: ControlRig) -> None:
    base, owner = await signed_up(control)
    on = await control.call("PUT", f"{base}/weather", owner.token)
    assert on.json() == {"name": "weather", "enabled": True, "position": 2, "configured": False, "config_version": 0}
    off = await control.call("DELETE", f"{base}/weather", owner.token)
    assert off.json()["enabled"] is False
    listed = (await control.call("GET", base, owner.token)).json()["items"]
    assert [(each["name"], each["enabled"]) for each in listed] == [("demo", True), ("weather", False)]


@pytest.mark.parametrize(("method", "path"), [("PUT", "nowhere"), ("DELETE", "weather"), ("GET", "weather/config")])
async def test_a_toolset_that_is_not_there_is_a_problem(control: ControlRig, method: str, path: str) -> None:
    base, owner = await signed_up(control)
    answer = await control.call(method, f"{base}/{path}", owner.token)
    assert answer.status_code == 404
    assert answer.json()["type"].endswith("#toolset-not-found")


async def test_a_configuration_is_read_back_without_its_secrets(control: ControlRig) -> None:
    base, owner = await with_weather(control, {"token": CANARY, "region": "no"})
    answer = await control.call("GET", f"{base}/weather/config", owner.token)
    found = answer.json()
    assert (found["config"], found["secrets"]) == ({"region": "no"}, ["token"])
    assert found["schema"]["required"] == ["token"]
    assert answer.headers["etag"] == f'"{found["version"]}"'
    assert CANARY not in answer.text
    [weather] = [
        each for each in (await control.call("GET", base, owner.token)).json()["items"] if each["name"] == "weather"
    ]
    assert (weather["configured"], weather["config_version"]) == (True, found["version"])


async def test_what_does_not_fit_the_schema_is_told_by_field(control: ControlRig) -> None:
    base, owner = await with_weather(control)
    body = {"config": {"token": 7, "region": CANARY, "tokem": CANARY}}
    answer = await control.call("PUT", f"{base}/weather/config", owner.token, body)
    assert answer.status_code == 422
    assert {each["pointer"] for each in answer.json()["errors"]} == {"/config", "/config/token", "/config/region"}
    assert CANARY not in answer.text


@pytest.mark.parametrize(
    "config",
    [
        {"token": "x" * 20_000},
        {"token": "x", "deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]},
    ],
    ids=["large", "deep"],
)
async def test_what_no_configuration_may_be_is_refused(control: ControlRig, config: dict[str, Any]) -> None:
    base, owner = await with_weather(control)
    answer = await control.call("PUT", f"{base}/weather/config", owner.token, {"config": config})
    assert answer.status_code == 422
    assert "configuration" in answer.json()["detail"]


async def test_a_nul_is_refused_in_any_body(control: ControlRig) -> None:
    base, owner = await with_weather(control)
    for config in ({"token": "\0"}, {"token": "x", "region": {"a\0": 1}}):
        answer = await control.call("PUT", f"{base}/weather/config", owner.token, {"config": config})
        assert (answer.status_code, answer.json()["detail"][:15]) == (422, "The body holds ")
    written_out = {"config": {"token": "\\u0000"}}
    assert (await control.call("PUT", f"{base}/weather/config", owner.token, written_out)).status_code == 200


async def test_a_change_that_somebody_else_made_meanwhile_is_not_overwritten(control: ControlRig) -> None:
    base, owner = await with_weather(control, {"token": CANARY})
    path = f"{base}/weather/config"
    etag = (await control.call("GET", path, owner.token)).headers["etag"]
    body = {"config": {"region": "se"}}
    changed = await control.call("PUT", path, owner.token, body, **{"if-match": etag})
    assert changed.status_code == 200
    for method, given in (("PUT", body), ("DELETE", None)):
        for stale in (etag, "nonsense"):
            late = await control.call(method, path, owner.token, given, **{"if-match": stale})
            assert late.status_code == 412
    assert (await control.call("DELETE", path, owner.token, **{"if-match": "*"})).status_code == 204
    found = (await control.call("GET", path, owner.token)).json()
    assert (found["config"], found["secrets"], found["version"]) == ({}, [], 0)
