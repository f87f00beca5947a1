"""Limits, quotas and signing keys over the control plane: tenants see theirs, operators set them."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from tests.control import ControlRig, Person
from tests.journey.conftest import eventually
from tests.stores import as_owner

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def operator(control: ControlRig) -> Person:
    return await control.operator()


async def new_tenant(control: ControlRig) -> tuple[str, Person]:
    made, owner = await control.sign_up(f"t-{secrets.token_hex(4)}")
    return made["tenant"]["slug"], owner


async def test_a_tenant_sees_its_limits_and_what_it_has_used(control: ControlRig) -> None:
    slug, owner = await new_tenant(control)
    answer = await control.call("GET", f"/v1/tenants/{slug}/limits", owner.token)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert shown["limits"]["rate"] == control.settings.tenant_rate
    assert set(shown["quotas"].values()) == {None}
    assert (shown["used"]["calls"], shown["used"]["compute_seconds"]) == (0, 0)
    resets = datetime.fromisoformat(shown["used"]["resets_at"])
    assert (resets.day, resets.hour, resets > datetime.now(UTC)) == (1, 0, True)


async def test_an_operator_sets_limits_and_quotas_and_takes_them_back(control: ControlRig, operator: Person) -> None:
    slug, owner = await new_tenant(control)
    path = f"/v1/tenants/{slug}/limits"
    wanted = {"limits": {"rate": 2.5, "burst": 5}, "quotas": {"monthly_calls": 100, "monthly_calls_soft": 80}}
    answer = await control.call("PUT", path, operator.token, wanted)
    assert answer.status_code == 200, answer.text
    shown = (await control.call("GET", path, owner.token)).json()
    assert (shown["limits"]["rate"], shown["limits"]["burst"]) == (2.5, 5)
    assert (shown["quotas"]["monthly_calls"], shown["quotas"]["monthly_calls_soft"]) == (100, 80)
    tenant = (await control.call("GET", f"/v1/tenants/{slug}", owner.token)).json()
    assert tenant["quotas"] == shown["quotas"]
    back = {"limits": {"rate": None}, "quotas": {"monthly_calls": None}}
    answer = await control.call("PATCH", f"/v1/operator/tenants/{slug}", operator.token, back)
    assert answer.status_code == 200, answer.text
    assert answer.json()["limits"]["rate"] == control.settings.tenant_rate
    assert answer.json()["quotas"] == {**shown["quotas"], "monthly_calls": None}
    query = "SELECT * FROM audit_events WHERE action = 'limits.set' AND actor = $1"
    assert len(await as_owner(control.settings.database_url, query, operator.id, task="audit")) == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"quotas": {"monthly_calls": 0}},
        {"quotas": {"monthly_calls": 5, "monthly_calls_soft": 6}},
        {"limits": {"rate": -1}},
        {"limits": {"colour": 1}},
    ],
)
async def test_limits_that_cannot_be_are_422(control: ControlRig, operator: Person, body: dict[str, object]) -> None:
    slug, _ = await new_tenant(control)
    answer = await control.call("PUT", f"/v1/tenants/{slug}/limits", operator.token, body)
    assert answer.status_code == 422, answer.text


async def test_tenants_do_not_set_their_own_limits(control: ControlRig) -> None:
    slug, owner = await new_tenant(control)
    body = {"limits": {"rate": 1_000_000}}
    assert (await control.call("PUT", f"/v1/tenants/{slug}/limits", owner.token, body)).status_code in {401, 403}
    admin, _ = await control.platform.keys.issue(slug, scopes=["tenant:admin"])
    assert (await control.call("PUT", f"/v1/tenants/{slug}/limits", admin, body)).status_code == 403


async def test_an_operator_rotates_and_retires_signing_keys(control: ControlRig, operator: Person) -> None:
    path = "/v1/operator/signing-keys"
    before = (await control.call("GET", path, operator.token)).json()["items"]
    (signs,) = [key for key in before if key["state"] == "signs"]
    made = await control.call("POST", f"{path}/rotate", operator.token, {"ahead": "1h"})
    assert (made.status_code, made.json()["state"]) == (201, "next")
    new = made.json()["kid"]

    async def published() -> bool:
        keys = (await control.call("GET", "/.well-known/jwks.json")).json()["keys"]
        return {new, signs["kid"]} <= {key["kid"] for key in keys}

    await eventually(published)
    refused = await control.call("POST", f"{path}/{signs['kid']}/retire", operator.token, {})
    assert (refused.status_code, "rotate first" in refused.json()["detail"]) == (409, True)
    retired = await control.call("POST", f"{path}/{new}/retire", operator.token, {})
    assert (retired.status_code, retired.json()["state"]) == (200, "retired")
    assert (await control.call("POST", f"{path}/{'0' * 32}/retire", operator.token, {})).status_code == 404
    late = await control.call("POST", f"{path}/{new}/retire", operator.token, {"at": "2030-01-01T00:00:00"})
    assert late.status_code == 422
    _, owner = await new_tenant(control)
    assert (await control.call("GET", path, owner.token)).status_code == 403
