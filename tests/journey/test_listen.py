"""`subscriptions/listen`: what changes at a tenant reaches its listeners on every pod, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.journey import parlour
from tests.journey.conftest import Platform, eventually
from tests.streamable import Answer, Client, call, client, modern, request

from trunkline.api.run import ApiProcess
from trunkline.streams.changes import Changes

ALL = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


@asynccontextmanager
async def listening(one: Client, number: Any, base: str = "", **wanted: Any) -> AsyncIterator[Answer]:
    message = modern(request(number, "subscriptions/listen", {"notifications": wanted}))
    async with one.open("POST", message, base, **one.stateless(message)) as answer:
        assert answer.status == 200, await answer.response.aread()
        assert answer.streams
        first = await answer.message()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"] == {"notifications": wanted, "_meta": {SUBSCRIPTION: number}}
        yield answer


async def heard(answer: Answer, count: int) -> list[str]:
    """What the next so many notifications are of."""
    messages = [await answer.message() for _ in range(count)]
    return sorted(message["method"].removeprefix("notifications/") for message in messages)


async def test_switching_a_toolset_is_told_on_every_pod_to_those_who_want_to_hear_of_it(platform: Platform) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.tenants.create("other")
    theirs, _ = await platform.keys.issue("other")
    async with (
        client(first, key=platform.key) as one,
        client(second, key=theirs, path="/t/other/mcp") as stranger,
        listening(one, 1_764_000_000_000, **ALL) as all_of_it,
        listening(one, "p", second, promptsListChanged=True) as prompts,
        listening(stranger, 3, **ALL) as foreign,
    ):
        await platform.tenants.disable("demo", "demo")
        assert await heard(all_of_it, 3) == [f"{each}/list_changed" for each in ("prompts", "resources", "tools")]
        assert await heard(prompts, 1) == ["prompts/list_changed"]
        await platform.tenants.enable("other", "demo")
        told = await foreign.message()
        assert told["params"]["_meta"] == {SUBSCRIPTION: 3}
        await platform.tenants.enable("demo", "demo")
        assert await heard(prompts, 1) == ["prompts/list_changed"], "and nothing of the other tenant's between"


async def test_updates_of_resources_reach_those_who_named_them(platform: Platform) -> None:
    api = await platform.api()
    tenant = (await platform.tenants.get("demo")).id
    changes = Changes(platform.redis)
    async with client(api, key=platform.key) as one:
        mine = ["note://a", "note://b"]
        async with listening(one, 1, resourceSubscriptions=mine) as answer:
            for uri in ("note://c", "note://b", "note://a"):
                await changes.updated(tenant, uri)
            told = [(await answer.message())["params"] for _ in range(2)]
            assert [params["uri"] for params in told] == ["note://b", "note://a"]


async def test_what_a_tool_announces_reaches_listeners_and_sessions(platform: Platform) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.tenants.enable("demo", parlour.NAME)
    await platform.worker(parlour.PATH)
    async with (
        client(first, key=platform.key) as one,
        listening(one, 1, second, toolsListChanged=True) as listener,
        listening(one, 2, second, resourceSubscriptions=[parlour.NOTE]) as reader,
    ):
        session = one.other()
        await session.initialize()
        async with session.open("GET", base=second) as own:
            assert "result" in await one.modern(call(1, "rearrange"))
            assert await heard(listener, 1) == ["tools/list_changed"]
            assert (await own.message())["method"] == "notifications/tools/list_changed"
            await one.modern(call(2, "whisper"))
            assert await heard(listener, 1) == ["tools/list_changed"]
            assert (await own.message())["method"] == "notifications/tools/list_changed"
            assert (await reader.message())["params"]["uri"] == parlour.NOTE


async def test_a_pod_that_could_not_listen_says_that_all_may_have_changed(platform: Platform) -> None:
    api = await platform.api()
    async with (
        client(api, key=platform.key) as one,
        listening(one, 1, toolsListChanged=True, resourceSubscriptions=["note://a"]) as answer,
    ):
        await platform.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await heard(answer, 2) == ["resources/updated", "tools/list_changed"]


async def test_a_listener_is_told_of_the_end_by_the_answer_to_its_request(platform: Platform) -> None:
    leaving, staying = await platform.api(), await platform.api()
    key, issued = await platform.keys.issue("demo")
    async with (
        client(leaving, key=platform.key) as one,
        client(staying, key=key) as other,
        listening(one, 1, **ALL) as answer,
        listening(other, 2, **ALL) as revoked,
    ):
        await platform.keys.revoke(issued.id)
        (end,) = await revoked.rest()
        assert (end["id"], end["result"]) == (2, {"resultType": "complete", "_meta": {SUBSCRIPTION: 2}})
        await platform.stop(platform.process(ApiProcess))
        (end,) = await answer.rest()
        assert (end["id"], end["result"]["_meta"]) == (1, {SUBSCRIPTION: 1})


async def test_a_tenant_has_a_bounded_number_of_listeners_and_gets_the_place_of_those_who_left(
    platform: Platform,
) -> None:
    api = await platform.api(tenant_listeners=2)
    async with client(api, key=platform.key) as one:
        message = modern(request(3, "subscriptions/listen", {"notifications": ALL}))
        async with listening(one, 1, **ALL):
            async with listening(one, 2, **ALL):
                refused = await one.send("POST", message, **one.stateless(message))
                assert (refused.status_code, refused.json()["id"]) == (429, 3)
                assert int(refused.headers["retry-after"]) >= 1

            async def place() -> bool:
                async with one.open("POST", message, **one.stateless(message)) as answer:
                    return answer.status == 200

            await eventually(place)


@pytest.mark.parametrize("params", [{}, {"notifications": 7}, {"notifications": {"resourceSubscriptions": "x"}}])
async def test_a_request_that_names_nothing_to_hear_of_is_refused(platform: Platform, params: dict[str, Any]) -> None:
    api = await platform.api()
    async with client(api, key=platform.key) as one:
        message = modern(request(1, "subscriptions/listen", params))
        response = await one.send("POST", message, **one.stateless(message))
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32602)


async def test_a_listener_names_a_thousand_resources_and_no_more(platform: Platform) -> None:
    api = await platform.api()
    async with client(api, key=platform.key) as one:
        uris = [f"note://{number:04}" for number in range(1001)]
        async with listening(one, 1, resourceSubscriptions=uris[:1000]):
            message = modern(request(2, "subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}}))
            refused = await one.send("POST", message, **one.stateless(message))
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32602)


async def test_listeners_that_come_and_go_leave_nothing_behind(platform: Platform) -> None:
    api = await platform.api()
    async with client(api, key=platform.key) as one:

        async def come_and_go(number: int) -> None:
            async with listening(one, number, **ALL):
                pass

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(come_and_go(number))

        async def gone() -> bool:
            return (await one.http.get(f"{api}/health")).json()["active_connections"] == 0

        await eventually(gone)
        assert not platform.process(ApiProcess)._connections.listening
        assert not platform.process(ApiProcess)._listeners._count
