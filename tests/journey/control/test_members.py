from __future__ import annotations

import asyncio
import email as mail
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest
from pydantic import SecretStr
from tests.control import PASSWORD, ControlRig
from tests.stores import as_owner

pytestmark = pytest.mark.asyncio(loop_scope="module")


def members(slug: str) -> str:
    return f"/v1/tenants/{slug}/members"


def invitations(slug: str) -> str:
    return f"/v1/tenants/{slug}/invitations"


async def test_an_invitation_brings_a_colleague_once(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug, email = made["tenant"]["slug"], f"{secrets.token_hex(4)}@example.com"
    answer = await control.call("POST", invitations(slug), owner.token, {"email": email.upper(), "role": "developer"})
    assert answer.status_code == 201
    invited = answer.json()
    assert (invited["email"], invited["role"], invited["mailed"]) == (email, "developer", False)
    address, _, secret = invited["link"].partition("#")
    assert (address, secret[:4]) == (f"{control.settings.public_url}/invite", "tli_")
    waiting = (await control.call("GET", invitations(slug), owner.token)).json()["items"]
    assert [each["email"] for each in waiting] == [email]
    assert secret not in str(waiting)
    accept = {"secret": secret, "name": "Grace", "password": PASSWORD}
    joined = await control.call("POST", "/v1/invitations/accept", json=accept)
    assert joined.status_code == 201
    assert joined.json()["memberships"] == [{"tenant": slug, "role": "developer"}]
    again = await control.call("POST", "/v1/invitations/accept", json=accept)
    assert again.status_code == 404
    listed = (await control.call("GET", members(slug), owner.token)).json()["items"]
    assert [(each["user"]["email"], each["role"]) for each in listed] == [
        (owner.email, "owner"),
        (email, "developer"),
    ]
    assert (await control.call("GET", invitations(slug), owner.token)).json()["items"] == []


async def test_of_two_who_take_the_same_invitation_one_comes_in(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    body = {"email": f"{secrets.token_hex(4)}@example.com", "role": "auditor"}
    link = (await control.call("POST", invitations(slug), owner.token, body)).json()["link"]
    accept = {"secret": link.partition("#")[2], "password": PASSWORD}
    answers = await asyncio.gather(
        *(control.call("POST", "/v1/invitations/accept", json=accept) for _ in range(3)), return_exceptions=False
    )
    assert sorted(answer.status_code for answer in answers)[0] == 201
    assert all(answer.status_code in {404, 409} for answer in answers if answer.status_code != 201)
    assert len((await control.call("GET", members(slug), owner.token)).json()["items"]) == 2


async def test_somebody_with_an_account_joins_by_their_password(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    _, guest = await control.sign_up()
    body = {"email": guest.email, "role": "admin"}
    link = (await control.call("POST", invitations(slug), owner.token, body)).json()["link"]
    secret = link.partition("#")[2]
    wrong = await control.call("POST", "/v1/invitations/accept", json={"secret": secret, "password": "x" * 12})
    assert wrong.status_code == 401
    right = await control.call("POST", "/v1/invitations/accept", json={"secret": secret, "password": PASSWORD})
    assert right.status_code == 201
    assert right.json()["user"]["id"] == guest.id
    twice = await control.call("POST", invitations(slug), owner.token, body)
    assert twice.status_code == 409


async def test_an_invitation_that_is_revoked_or_replaced_is_like_one_that_never_was(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    body = {"email": f"{secrets.token_hex(4)}@example.com", "role": "developer"}
    first = (await control.call("POST", invitations(slug), owner.token, body)).json()
    second = (await control.call("POST", invitations(slug), owner.token, body)).json()
    revoked = await control.call("DELETE", f"{invitations(slug)}/{second['id']}", owner.token)
    assert revoked.status_code == 204
    assert (await control.call("DELETE", f"{invitations(slug)}/{second['id']}", owner.token)).status_code == 404
    problems = []
    for secret in (first["link"].partition("#")[2], second["link"].partition("#")[2], "tli_" + "x" * 43):
        body = {"secret": secret, "password": PASSWORD}
        answer = await control.call("POST", "/v1/invitations/accept", json=body)
        problems.append({name: value for name, value in answer.json().items() if name != "instance"})
    assert problems[0] == problems[1] == problems[2]
    assert problems[0]["status"] == 404


async def test_a_tenant_keeps_an_owner_even_if_two_leave_at_once(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    alone = await control.call("DELETE", f"{members(slug)}/{owner.id}", owner.token)
    assert alone.status_code == 409
    second = await control.join(slug, owner, "owner")
    answers = await asyncio.gather(
        control.call("DELETE", f"{members(slug)}/{owner.id}", second.token),
        control.call("PATCH", f"{members(slug)}/{second.id}", owner.token, {"role": "auditor"}),
    )
    assert sorted(answer.status_code for answer in answers) in ([204, 404], [200, 409], [204, 409], [200, 403])
    query = "SELECT count(*) FROM memberships WHERE tenant_id = $1 AND role = 'owner'"
    (row,) = await as_owner(control.settings.database_url, query, made["tenant"]["id"])
    assert row["count"] == 1


async def test_only_owners_make_and_unmake_owners(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    admin, developer = await control.join(slug, owner, "admin"), await control.join(slug, owner, "developer")
    assert (await control.call("DELETE", f"{members(slug)}/{owner.id}", admin.token)).status_code == 403
    body = {"email": "x@example.com", "role": "owner"}
    assert (await control.call("POST", invitations(slug), admin.token, body)).status_code == 403
    promoted = await control.call("PATCH", f"{members(slug)}/{developer.id}", admin.token, {"role": "owner"})
    assert promoted.status_code == 403
    to_admin = await control.call("PATCH", f"{members(slug)}/{developer.id}", admin.token, {"role": "admin"})
    assert (to_admin.status_code, to_admin.json()["role"]) == (200, "admin")
    auditor = await control.join(slug, owner, "auditor")
    refused = await control.call("POST", invitations(slug), auditor.token, {**body, "role": "auditor"})
    assert refused.status_code == 403
    assert "members:manage" in refused.json()["detail"]


async def test_who_is_removed_sees_nothing_from_then_on(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    guest = await control.join(slug, owner, "admin")
    assert (await control.call("GET", members(slug), guest.token)).status_code == 200
    assert (await control.call("DELETE", f"{members(slug)}/{guest.id}", owner.token)).status_code == 204
    gone = await control.call("GET", members(slug), guest.token)
    never = await control.call("GET", members("never-was"), guest.token)
    assert gone.status_code == never.status_code == 404
    assert gone.json()["detail"] == never.json()["detail"]


async def test_who_is_removed_or_may_do_less_leaves_no_invitation_behind(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    leaving, lowered = await control.join(slug, owner, "admin"), await control.join(slug, owner, "admin")
    secret_of: dict[str, str] = {}
    for who, person in (("leaving", leaving), ("lowered", lowered), ("owner", owner)):
        body = {"email": f"{who}-friend@example.com", "role": "admin"}
        link = (await control.call("POST", invitations(slug), person.token, body)).json()["link"]
        secret_of[who] = link.partition("#")[2]
    lower = await control.call("PATCH", f"{members(slug)}/{lowered.id}", owner.token, {"role": "auditor"})
    assert lower.status_code == 200
    assert (await control.call("DELETE", f"{members(slug)}/{leaving.id}", owner.token)).status_code == 204
    for who, status in (("leaving", 404), ("lowered", 404), ("owner", 201)):
        body = {"secret": secret_of[who], "name": who, "password": PASSWORD}
        assert (await control.call("POST", "/v1/invitations/accept", json=body)).status_code == status, who


async def test_the_keys_of_who_is_removed_go_on_unless_they_are_to_be_revoked(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    keys = f"/v1/tenants/{slug}/keys"
    states = []
    for query in ("", "?revoke_keys=true"):
        guest = await control.join(slug, owner, "developer")
        issued = (await control.call("POST", keys, guest.token, {"name": "theirs"})).json()["key"]["id"]
        assert (await control.call("DELETE", f"{members(slug)}/{guest.id}{query}", owner.token)).status_code == 204
        states.append((await control.call("GET", f"{keys}/{issued}", owner.token)).json()["state"])
    assert states == ["active", "revoked"]
    mine = (await control.call("GET", f"{keys}/{made['key']['key']['id']}", owner.token)).json()
    assert mine["state"] == "active"


async def test_everybody_may_leave_but_the_last_owner(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    for role in ("auditor", "developer", "admin"):
        guest, other = await control.join(slug, owner, role), await control.join(slug, owner, "owner")
        assert (await control.call("DELETE", f"{members(slug)}/{other.id}", guest.token)).status_code == 403
        assert (await control.call("DELETE", f"{members(slug)}/{guest.id}", guest.token)).status_code == 204
        assert (await control.call("GET", members(slug), guest.token)).status_code == 404
        assert (await control.call("DELETE", f"{members(slug)}/{other.id}", other.token)).status_code == 204
    assert (await control.call("DELETE", f"{members(slug)}/{owner.id}", owner.token)).status_code == 409


async def test_members_come_in_pages_whose_cursors_are_the_callers_own(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    joined = [await control.join(slug, owner, "auditor") for _ in range(4)]
    seen, path = [], f"{members(slug)}?limit=2"
    first = (await control.call("GET", path, owner.token)).json()["next"]
    while path:
        answer = await control.call("GET", path, owner.token)
        page = answer.json()
        seen += [each["user"]["id"] for each in page["items"]]
        path = answer.headers["link"].partition("<")[2].partition(">")[0] if page["next"] else ""
    assert seen == [owner.id, *(person.id for person in joined)]
    for credential, where in ((joined[0].token, members(slug)), (owner.token, invitations(slug))):
        foreign = await control.call("GET", f"{where}?cursor={first}", credential)
        assert (foreign.status_code, foreign.json()["type"].rpartition("#")[2]) == (404, "cursor-not-found")
    assert (await control.call("GET", f"{members(slug)}?cursor=nonsense", owner.token)).status_code == 404


async def test_every_change_of_a_member_has_its_event(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    guest = await control.join(slug, owner, "auditor")
    await control.call("PATCH", f"{members(slug)}/{guest.id}", owner.token, {"role": "developer"})
    await control.call("DELETE", f"{members(slug)}/{guest.id}", owner.token)
    query = "SELECT action, actor FROM audit_events WHERE tenant_id = $1 AND action LIKE 'member.%' ORDER BY id"
    rows = await as_owner(control.settings.database_url, query, made["tenant"]["id"])
    assert [(row["action"], row["actor"]) for row in rows] == [
        ("member.invite", owner.id),
        ("member.join", guest.id),
        ("member.role", owner.id),
        ("member.remove", owner.id),
    ]


class Postbox(ThreadingTCPServer):
    """A mail server of the few words that sending one mail takes (RFC 5321)."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.received: list[Message] = []
        super().__init__(("127.0.0.1", 0), _Session)


class _Session(StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 postbox\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.received.append(mail.message_from_bytes(b"".join(lines)))
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")


@contextmanager
def postbox() -> Iterator[Postbox]:
    with Postbox() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


async def test_where_there_is_a_mail_server_the_invitation_goes_by_mail(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    slug = made["tenant"]["slug"]
    body = {"email": f"{secrets.token_hex(4)}@example.com", "role": "developer"}
    with postbox() as server:
        smtp = {"smtp_url": SecretStr(f"smtp://127.0.0.1:{server.server_address[1]}"), "mail_from": "t@example.com"}
        rig = ControlRig(control.platform, await control.platform.api(**smtp))
        answer = await rig.call("POST", invitations(slug), owner.token, body)
    assert answer.status_code == 201
    assert answer.json()["mailed"] is True
    assert answer.json()["link"] is None
    (message,) = server.received
    assert (message["To"], message["From"]) == (body["email"], "t@example.com")
    text = message.get_payload(decode=True).decode()
    secret = text.partition("/invite#")[2].split()[0]
    joined = await control.call("POST", "/v1/invitations/accept", json={"secret": secret, "password": PASSWORD})
    assert joined.status_code == 201


async def test_where_the_mail_server_takes_nothing_the_link_is_shown(control: ControlRig) -> None:
    made, owner = await control.sign_up()
    smtp = {"smtp_url": SecretStr("smtp://127.0.0.1:9"), "mail_from": "t@example.com"}
    rig = ControlRig(control.platform, await control.platform.api(**smtp))
    body = {"email": "somebody@example.com", "role": "developer"}
    answer = await rig.call("POST", invitations(made["tenant"]["slug"]), owner.token, body)
    assert answer.status_code == 201
    assert answer.json()["mailed"] is False
    assert "#tli_" in answer.json()["link"]
