"""Things that one caller was given and another sends: they do not exist, and look like ones that never did."""

from __future__ import annotations

import base64
import secrets
from typing import Any, cast

import pytest
from tests.control import PASSWORD, ControlRig, Place, World
from tests.journey.control.samples import invitation
from tests.sse import connect

from trunkline.api.control.app import make_control

pytestmark = pytest.mark.asyncio(loop_scope="module")


def listed() -> list[str]:
    """The lists of a tenant that come in pages, by the application's own routes."""
    described = make_control(cast("Any", None)).openapi()["paths"]
    return sorted(
        path
        for path, methods in described.items()
        if any(each["name"] == "cursor" for each in methods.get("get", {}).get("parameters", ()))
        and path.startswith("/v1/tenants/{tenant}/")
    )


LISTS = listed()


def without_id(answer: Any) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "instance"}


async def test_the_lists_are_found() -> None:
    assert {path.rpartition("/")[2] for path in LISTS} >= {"members", "invitations", "keys", "audit"}


async def cursor_of(control: ControlRig, place: Place, path: str, credential: str) -> str:
    answer = await control.call("GET", path.format(tenant=place.slug) + "?limit=1", credential)
    assert answer.json()["next"], answer.text
    return str(answer.json()["next"])


@pytest.mark.parametrize("path", LISTS)
async def test_a_cursor_is_its_callers_its_tenants_and_its_lists(
    control: ControlRig, world: World, path: str
) -> None:
    for place in (world.acme, world.other):
        for _ in range(2):
            await invitation(control, place)
    acme, other = world.acme, world.other
    mine = await cursor_of(control, acme, path, acme.owner.token)
    url = path.format(tenant="acme")
    assert (await control.call("GET", f"{url}?limit=1&cursor={mine}", acme.owner.token)).status_code == 200
    elsewhere = LISTS[(LISTS.index(path) + 1) % len(LISTS)].format(tenant="acme")
    foreign = [
        (url, acme.people["admin"].token, mine),
        (path.format(tenant="other"), other.owner.token, mine),
        (elsewhere, acme.owner.token, mine),
        (url, acme.owner.token, await cursor_of(control, other, path, other.owner.token)),
        (url, acme.owner.token, mine[:-2] + ("AA" if mine[-2:] != "AA" else "BB")),
        (url, acme.owner.token, "x"),
        (url, acme.owner.token, "ü"),
    ]
    never = base64.urlsafe_b64encode(secrets.token_bytes(48)).decode()
    unknown = await control.call("GET", f"{url}?limit=1&cursor={never}", acme.owner.token)
    assert unknown.status_code == 404
    for address, credential, cursor in foreign:
        answer = await control.call("GET", f"{address}?limit=1&cursor={cursor}", credential)
        assert answer.status_code == 404, (address, answer.text)
        assert without_id(answer) == without_id(unknown)


async def test_a_user_of_two_tenants_takes_no_cursor_from_one_to_the_other(control: ControlRig, world: World) -> None:
    """Bound to the tenant, not to the person alone."""
    acme, other = world.acme, world.other
    invited = await control.call(
        "POST", "/v1/tenants/other/invitations", other.owner.token, {"email": acme.owner.email, "role": "admin"}
    )
    secret = invited.json()["link"].partition("#")[2]
    body = {"secret": secret, "password": PASSWORD}
    assert (await control.call("POST", "/v1/invitations/accept", json=body)).status_code == 201
    cursor = await cursor_of(control, acme, "/v1/tenants/{tenant}/members", acme.owner.token)
    for slug, status in (("acme", 200), ("other", 404)):
        answer = await control.call("GET", f"/v1/tenants/{slug}/members?limit=1&cursor={cursor}", acme.owner.token)
        assert answer.status_code == status


async def test_sessions_and_resume_ids_of_another_tenant_were_never_there(control: ControlRig, world: World) -> None:
    acme, other = world.acme, world.other
    async with connect(control.url, "/t/acme/sse", key=acme.first_key) as stream:
        session, never = stream.session, secrets.token_hex(16)
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        answers = []
        for known in (session, never):
            posted = await control.call("POST", f"/t/other/messages?session_id={known}", other.first_key, message)
            answers.append((posted.status_code, posted.text.replace(known, "")))
            for method, headers in (
                ("POST", {"mcp-session-id": known}),
                ("GET", {"mcp-session-id": known, "accept": "text/event-stream"}),
                ("DELETE", {"mcp-session-id": known}),
                ("GET", {"last-event-id": f"{known}.1", "accept": "text/event-stream"}),
            ):
                address = "/t/other/sse" if "last-event-id" in headers else "/t/other/mcp"
                body = message if method == "POST" else None
                asked = await control.call(
                    method,
                    address,
                    other.first_key,
                    body,
                    **{"accept": "application/json, text/event-stream"} | headers,
                )
                answers.append((asked.status_code, asked.text.replace(known, "")))
        half = len(answers) // 2
        assert answers[:half] == answers[half:]
        assert {status for status, _ in answers} == {404}


async def test_a_ticket_of_another_tenant_was_never_there(control: ControlRig, world: World) -> None:
    made = await control.call("POST", "/t/acme/tickets", world.acme.first_key, {})
    ticket, never = made.json()["ticket"], secrets.token_urlsafe(32)
    asked = [await control.call("GET", f"/t/other/sse?ticket={each}") for each in (ticket, never)]
    assert [(each.status_code, each.text.replace(ticket, "").replace(never, "")) for each in asked[:1]] == [
        (each.status_code, each.text.replace(ticket, "").replace(never, "")) for each in asked[1:]
    ]
    assert asked[0].status_code in {401, 404}


async def test_an_invitation_is_nobodys_to_find(control: ControlRig, world: World) -> None:
    made = await invitation(control, world.acme)
    never = {"secret": "tli_" + secrets.token_urlsafe(32), "name": "X", "password": "a long enough phrase"}
    unknown = await control.call("POST", "/v1/invitations/accept", json=never)
    revoked = await control.call(
        "DELETE", f"/v1/tenants/acme/invitations/{made['invitation']}", world.acme.owner.token
    )
    assert revoked.status_code == 204
    gone = await control.call("POST", "/v1/invitations/accept", json={**never, "secret": made["secret"]})
    assert (gone.status_code, without_id(gone)) == (unknown.status_code, without_id(unknown))
    assert gone.status_code == 404
