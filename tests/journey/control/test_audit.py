"""A tenant's log and usage as clients of `/v1` have them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import secrets
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import httpx2
import pytest
from tests.control import ControlRig, Person
from tests.integration.audit.logs import happened

from trunkline.audit.heads import Heads
from trunkline.audit.signing import CheckpointSigner, read_signers
from trunkline.audit.verify import verify_copy
from trunkline.db import Database, task_scope

pytestmark = pytest.mark.asyncio(loop_scope="module")


def audit(slug: str, rest: str = "") -> str:
    return f"/v1/tenants/{slug}/audit{rest}"


async def call_tools(control: ControlRig, tenant_id: str, count: int = 1, **changes: Any) -> None:
    """Record tool calls of a tenant, as the writer does."""
    database = Database(control.settings.database_url, process="test")
    heads = Heads(control.settings.secret_key)
    async with database.transaction(task_scope("audit")) as session:
        await heads.append(session, [happened(tenant=tenant_id, **changes) for _ in range(count)])
    await database.aclose()


async def tenant(control: ControlRig) -> tuple[str, str, Person]:
    made, owner = await control.sign_up()
    return made["tenant"]["slug"], made["tenant"]["id"], owner


async def test_what_was_done_is_in_the_log_with_who_and_from_where(control: ControlRig) -> None:
    slug, _, owner = await tenant(control)
    patched = await control.call("PATCH", f"/v1/tenants/{slug}", owner.token, {"name": "Renamed"})
    assert patched.status_code == 200
    items = (await control.call("GET", audit(slug), owner.token)).json()["items"]
    assert items[0]["action"] == "tenant.update"
    assert (items[0]["actor_kind"], items[0]["actor"], items[0]["address"]) == ("user", owner.id, "127.0.0.1")
    assert [item["seq"] for item in items] == list(range(len(items), 0, -1))
    one = await control.call("GET", audit(slug, f"/{items[0]['id']}"), owner.token)
    assert one.json() == items[0]


async def test_pages_follow_each_other_by_cursor_and_by_link(control: ControlRig) -> None:
    slug, tenant_id, owner = await tenant(control)
    await call_tools(control, tenant_id, 25)
    seen: list[int] = []
    path: str | None = audit(slug, "?limit=10&action=tools/call")
    while path is not None:
        answer = await control.call("GET", path, owner.token)
        assert answer.status_code == 200, answer.text
        seen += [item["seq"] for item in answer.json()["items"]]
        following = answer.json()["next"]
        assert ("link" in answer.headers) == (following is not None)
        path = answer.headers["link"].partition(">")[0][1:] if following else None
    assert len(seen) == len(set(seen)) == 25
    assert seen == sorted(seen, reverse=True)


async def test_a_cursor_is_good_for_its_reader_and_its_filters_alone(control: ControlRig) -> None:
    slug, tenant_id, owner = await tenant(control)
    admin = await control.join(slug, owner, "admin")
    other_slug, _, other = await tenant(control)
    await call_tools(control, tenant_id, 3)
    cursor = (await control.call("GET", audit(slug, "?limit=1"), owner.token)).json()["next"]
    assert (await control.call("GET", audit(slug, f"?limit=1&cursor={cursor}"), owner.token)).status_code == 200
    never = await control.call("GET", audit(slug, "?cursor=AAAA"), owner.token)
    for path, who in (
        (audit(slug, f"?limit=1&cursor={cursor}"), admin),
        (audit(slug, f"?limit=1&outcome=ok&cursor={cursor}"), owner),
        (audit(other_slug, f"?limit=1&cursor={cursor}"), other),
    ):
        answer = await control.call("GET", path, who.token)
        assert answer.status_code == 404
        assert answer.json() | {"instance": ""} == never.json() | {"instance": ""}


@pytest.mark.parametrize(
    "wrong",
    [
        "?limit=0",
        "?limit=201",
        "?from=yesterday",
        "?from=2026-11-01T00:00:00",
        "?actor=%00",
        "?surprise=1",
    ],
)
async def test_what_the_log_cannot_be_asked_is_refused(control: ControlRig, wrong: str) -> None:
    slug, _, owner = await tenant(control)
    answer = await control.call("GET", audit(slug, wrong), owner.token)
    assert answer.status_code == 422


async def test_developers_and_strangers_do_not_read_the_log(control: ControlRig) -> None:
    slug, _, owner = await tenant(control)
    developer = await control.join(slug, owner, "developer")
    _, _, stranger = await tenant(control)
    for rest in ("", "/head", "/tail", "/export", f"/{'0' * 32}"):
        assert (await control.call("GET", audit(slug, rest), developer.token)).status_code == 403
        assert (await control.call("GET", audit(slug, rest), stranger.token)).status_code == 404
        assert (await control.call("GET", audit(slug, rest))).status_code == 401


async def test_an_entry_of_another_tenant_is_one_that_never_was(control: ControlRig) -> None:
    slug, _, owner = await tenant(control)
    other_slug, _, other = await tenant(control)
    theirs = (await control.call("GET", audit(other_slug), other.token)).json()["items"][0]["id"]
    foreign = await control.call("GET", audit(slug, f"/{theirs}"), owner.token)
    never = await control.call("GET", audit(slug, f"/{'0' * 32}"), owner.token)
    assert foreign.status_code == 404
    assert foreign.json() | {"instance": ""} == never.json() | {"instance": ""}


async def test_how_far_the_chain_has_come_is_told_with_the_key_that_is_published(control: ControlRig) -> None:
    slug, tenant_id, owner = await tenant(control)
    await call_tools(control, tenant_id, 1_000)
    head = (await control.call("GET", audit(slug, "/head"), owner.token)).json()
    newest = (await control.call("GET", audit(slug, "?limit=1"), owner.token)).json()["items"][0]
    assert (head["seq"], head["hash"]) == (newest["seq"], newest["hash"])
    assert head["checkpoint"]["seq"] == 1_000
    published = {key["kid"] for key in (await control.call("GET", "/.well-known/jwks.json")).json()["keys"]}
    assert head["checkpoint"]["kid"] in published
    assert read_signers([head["signer"]]).keys() <= published


async def test_a_copy_streams_and_verifies_with_the_public_key(control: ControlRig) -> None:
    slug, tenant_id, owner = await tenant(control)
    await call_tools(control, tenant_id, 1_200)
    answer = await control.call("GET", audit(slug, "/export"), owner.token)
    assert answer.headers["content-disposition"] == f'attachment; filename="{slug}-audit.jsonl"'
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = answer.content.splitlines()
    assert json.loads(lines[-2])["action"] == "audit.export"
    public = read_signers([CheckpointSigner(control.settings.secret_key).public.hex()])
    report = verify_copy(lines, public)
    assert report.intact, report.findings
    assert report.entries == len(lines) - 1
    sheet = await control.call("GET", audit(slug, "/export?format=csv"), owner.token)
    rows = list(csv.DictReader(io.StringIO(sheet.text, newline="")))
    assert len(rows) == len(lines)


@pytest.mark.parametrize("bound", ["LONGEST", "_LOOK_EVERY"])
async def test_a_copy_that_ends_too_early_is_seen_to_be_cut_short(
    control: ControlRig, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    slug, _, owner = await tenant(control)
    monkeypatch.setattr(f"trunkline.audit.export.{bound}", -1.0)
    asked = asyncio.Event()

    async def gone(*_: object) -> bool:
        asked.set()
        return False

    monkeypatch.setattr("trunkline.api.control.audit._still_may", gone)
    for _ in range(2):
        with pytest.raises(httpx2.RemoteProtocolError):
            await control.call("GET", audit(slug, "/export"), owner.token)
    assert asked.is_set() is (bound == "_LOOK_EVERY")
    monkeypatch.undo()
    assert (await control.call("GET", audit(slug, "/export"), owner.token)).status_code == 200


async def entries(answer: httpx2.Response) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """The events of a tail: number and entry."""
    number = 0
    async for line in answer.aiter_lines():
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            yield number, json.loads(line[6:])


async def test_a_tail_gives_what_comes_and_resumes_where_it_was(control: ControlRig) -> None:
    slug, tenant_id, owner = await tenant(control)
    async with asyncio.timeout(20), control.client(owner.token) as http:
        async with http.stream("GET", audit(slug, "/tail"), headers={"last-event-id": "0"}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            stream = entries(answer)
            known = {(await anext(stream))[1]["action"] for _ in range(2)}
            assert known == {"tenant.create", "key.issue"}
            await call_tools(control, tenant_id, 2)
            assert [(await anext(stream))[1]["action"] for _ in range(2)] == ["tools/call"] * 2
            last = 4
        async with http.stream("GET", audit(slug, "/tail"), headers={"last-event-id": str(last - 1)}) as answer:
            number, entry = await anext(entries(answer))
            assert (number, entry["action"]) == (last, "tools/call")


async def test_a_tail_ends_with_the_right_to_read(control: ControlRig) -> None:
    slug, _, owner = await tenant(control)
    auditor = await control.join(slug, owner, "auditor")
    from_the_start = {"last-event-id": "0"}
    async with (
        asyncio.timeout(20),
        control.client(auditor.token) as http,
        http.stream("GET", audit(slug, "/tail"), headers=from_the_start) as answer,
    ):
        stream = entries(answer)
        await anext(stream)
        left = await control.call("DELETE", f"/v1/tenants/{slug}/members/{auditor.id}", owner.token)
        assert left.status_code == 204
        assert {entry["action"] async for _, entry in stream} >= {"member.join"}


async def test_a_tail_whose_reader_has_gone_makes_room_for_another(control: ControlRig) -> None:
    slug, _, owner = await tenant(control)

    async def follow_once() -> int:
        from_the_start = {"last-event-id": "0"}
        async with (
            control.client(owner.token) as http,
            http.stream("GET", audit(slug, "/tail"), headers=from_the_start) as answer,
        ):
            if answer.status_code == 200:
                await anext(entries(answer))
            return answer.status_code

    async with asyncio.timeout(30):
        for _ in range(12):
            while await follow_once() == 429:  # the pod notices within a second
                pass


async def test_operators_read_any_log_and_the_platforms_own(control: ControlRig) -> None:
    slug, _, owner = await tenant(control)
    operator = await control.operator()
    listed = await control.call("GET", f"/v1/operator/tenants/{slug}/audit", operator.token)
    assert "tenant.create" in {item["action"] for item in listed.json()["items"]}
    own = await control.call("GET", "/v1/operator/audit", operator.token)
    assert "session.create" in {item["action"] for item in own.json()["items"]}
    copied = await control.call("GET", f"/v1/operator/tenants/{slug}/audit/export", operator.token)
    assert json.loads(copied.content.splitlines()[-2])["actor_kind"] == "operator"
    assert (await control.call("GET", "/v1/operator/audit", owner.token)).status_code == 403


async def test_usage_is_told_apart_as_it_is_asked_for(control: ControlRig) -> None:
    slug, tenant_id, owner = await tenant(control)
    await call_tools(control, tenant_id, 3, target="add", compute_us=1_500, bytes_in=10, bytes_out=20)
    await call_tools(control, tenant_id, 2, target="=echo", outcome="error", compute_us=0)
    usage = (await control.call("GET", f"/v1/tenants/{slug}/usage?by=tool", owner.token)).json()
    assert [(row["tool"], row["calls"], row["errors"], row["compute_ms"]) for row in usage["items"]] == [
        ("=echo", 2, 2, 0.0),
        ("add", 3, 0, 4.5),
    ]
    assert (usage["total"]["calls"], usage["total"]["bytes_in"], usage["items"][0]["day"]) == (5, 230, None)
    sheet = await control.call("GET", f"/v1/tenants/{slug}/usage", owner.token, accept="text/csv")
    rows = list(csv.DictReader(io.StringIO(sheet.text, newline="")))
    assert {row["tool"] for row in rows} == {"'=echo", "add"}
    assert (await control.call("GET", f"/v1/tenants/{slug}/usage?format=csv", owner.token)).text == sheet.text


@pytest.mark.parametrize("wrong", ["by=week", "from=2026-01-02&to=2026-01-01", "from=2020-01-01", "to=0001-01-02"])
async def test_usage_that_cannot_be_asked_is_refused(control: ControlRig, wrong: str) -> None:
    slug, _, owner = await tenant(control)
    answer = await control.call("GET", f"/v1/tenants/{slug}/usage?{wrong}", owner.token)
    assert answer.status_code == 422, answer.text


async def test_a_developer_sees_usage_and_a_stranger_does_not(control: ControlRig) -> None:
    slug, _, owner = await tenant(control)
    developer = await control.join(slug, owner, "developer")
    _, _, stranger = await tenant(control)
    assert (await control.call("GET", f"/v1/tenants/{slug}/usage", developer.token)).status_code == 200
    assert (await control.call("GET", f"/v1/tenants/{slug}/usage", stranger.token)).status_code == 404


async def test_operators_see_what_all_tenants_use(control: ControlRig) -> None:
    slug, tenant_id, owner = await tenant(control)
    await call_tools(control, tenant_id, 4, compute_us=500_000)
    operator = await control.operator()
    of_one = await control.call("GET", f"/v1/operator/tenants/{slug}/usage?by=day", operator.token)
    assert [row["day"] for row in of_one.json()["items"]] == [date.today().isoformat()]  # noqa: DTZ011
    metrics = await control.call("GET", "/v1/operator/metrics", operator.token)
    assert f'trunkline_tenant_calls_total{{tenant="{slug}"}} 4' in metrics.text
    assert f'trunkline_tenant_compute_seconds_total{{tenant="{slug}"}} 2.0' in metrics.text
    assert (await control.call("GET", "/v1/operator/metrics", owner.token)).status_code == 403
    assert (await control.call("GET", "/v1/operator/metrics", secrets.token_hex(8))).status_code == 401
