"""A tool asks its client over streamable HTTP: the question on the call's stream, the response through any pod."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.journey import parlour
from tests.journey.conftest import Platform, eventually
from tests.journey.workshop import Gate
from tests.sse import text_of
from tests.streamable import LATEST, Answer, Client, call, client

CAPABLE: dict[str, Any] = {"elicitation": {"form": {}}}


@pytest.fixture
async def apis(platform: Platform) -> list[str]:
    """Three pods, and two workers that host the parlour."""
    await platform.tenants.enable("demo", parlour.NAME)
    await platform.worker(parlour.PATH)
    await platform.worker(parlour.PATH)
    return [await platform.api() for _ in range(3)]


async def question(answer: Answer) -> str:
    """The id of the question that comes next."""
    asked = await answer.message()
    assert (asked["method"], asked["params"]["message"]) == ("elicitation/create", "What is your name?")
    number: str = asked["id"]
    return number


def accept(number: str, name: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": {"action": "accept", "content": {"name": name}}}


async def test_a_question_comes_on_the_call_s_stream_and_is_answered_through_another_pod(
    platform: Platform, apis: list[str]
) -> None:
    async with client(apis[0], key=platform.key) as one:
        await one.initialize(capabilities=CAPABLE)
        async with one.open("GET", base=apis[1]) as own, one.open("POST", call(1, "greet")) as answer:
            number = await question(answer)
            await one.tell(accept(number, "Ada"), apis[2])
            (last,) = await answer.rest()
            assert text_of(last["result"]) == "Hello Ada"
            assert (await own.event()).data == "", "nothing but the event that it begins with"


async def test_a_user_is_sent_to_a_page_and_its_client_told_when_that_is_done(
    platform: Platform, apis: list[str]
) -> None:
    async with client(apis[0], key=platform.key) as one:
        await one.initialize(capabilities={"elicitation": {"url": {}}})
        async with one.open("POST", call(1, "sign_in")) as answer:
            asked = await answer.message()
            assert asked["method"] == "elicitation/create"
            assert asked["params"] == {
                "mode": "url",
                "message": "Sign in, please.",
                "url": "https://door.example/in",
                "elicitationId": "door-1",
            }
            await one.tell({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}, apis[1])
            done, last = await answer.rest()
            assert (done["method"], done["params"]) == (
                "notifications/elicitation/complete",
                {"elicitationId": "door-1"},
            )
            assert text_of(last["result"]) == "accept"


async def test_a_tool_pings_its_client(platform: Platform, apis: list[str]) -> None:
    async with client(apis[0], key=platform.key) as one:
        await one.initialize()
        async with one.open("POST", call(1, "knock")) as answer:
            asked = await answer.message()
            assert (asked["method"], asked.get("params")) == ("ping", None)
            await one.tell({"jsonrpc": "2.0", "id": asked["id"], "result": {}}, apis[1])
            assert text_of((await answer.rest())[-1]["result"]) == "someone is there"


async def test_a_session_that_ends_while_a_tool_asks_stops_the_tool_and_leaves_nothing_behind(
    platform: Platform, apis: list[str], gate: Gate
) -> None:
    async with client(apis[0], key=platform.key) as one:
        await one.initialize(capabilities=CAPABLE)
        async with one.open("POST", call(1, "greet_inside", gate=gate.name)) as answer:
            number = await question(answer)
            await gate.until(inside=1)
            assert (await one.send("DELETE", base=apis[1])).status_code == 204
            await gate.until(inside=0, cancelled=1)
            (ended,) = await answer.rest()
            assert ended["error"]["code"] == -32000, "there is no such session any more"
        assert (await one.send("POST", accept(number, "late"), apis[2])).status_code == 404
        tenant = platform.redis.keys.tenant((await platform.tenants.get("demo")).id)

        async def forgotten() -> bool:
            return not await platform.redis.command("KEYS", f"{tenant.base}q:*")

        await eventually(forgotten)
        await one.initialize(capabilities=CAPABLE)
        async with one.open("POST", call(2, "greet")) as answer:
            await one.tell(accept(await question(answer), "Ada"))
            assert text_of((await answer.rest())[-1]["result"]) == "Hello Ada"


async def test_of_several_responses_the_first_counts_and_strangers_give_none(
    platform: Platform, apis: list[str]
) -> None:
    other, _ = await platform.keys.issue("demo")
    async with client(apis[0], key=platform.key) as one:
        await one.initialize(capabilities=CAPABLE)
        stranger = one.other(key=other)
        mine = one.other()
        await mine.initialize(capabilities=CAPABLE)
        async with one.open("POST", call(1, "greet")) as answer:
            number = await question(answer)
            assert (await stranger.send("POST", accept(number, "Eve"))).status_code == 404
            await mine.tell(accept(number, "Mallory"))
            await one.tell(accept(number, "Ada"), apis[1])
            await one.tell(accept(number, "Bob"), apis[2])
            assert text_of((await answer.rest())[-1]["result"]) == "Hello Ada"
        await one.tell(accept(number, "late"))


async def test_a_question_that_was_not_read_comes_again_where_the_stream_is_resumed(
    platform: Platform, apis: list[str]
) -> None:
    async with client(apis[0], key=platform.key) as one:
        await one.initialize(capabilities=CAPABLE)
        async with one.open("POST", call(1, "greet")) as answer:
            begun = (await answer.event()).id
        async with one.open("GET", base=apis[1], last_event_id=begun) as rest:
            await one.tell(accept(await question(rest), "Ada"), apis[2])
            assert text_of((await rest.rest())[-1]["result"]) == "Hello Ada"


async def test_a_client_that_takes_no_events_cannot_be_asked(platform: Platform, apis: list[str]) -> None:
    async with client(apis[0], key=platform.key, accept="application/json") as one:
        await one.initialize(capabilities=CAPABLE)
        answer = await one.ask(call(1, "greet"))
        assert "error" in answer or answer["result"]["isError"]


@pytest.mark.parametrize("version", ["2025-06-18", LATEST])
async def test_a_tool_that_hangs_up_is_called_back_where_clients_know_of_it(
    platform: Platform, apis: list[str], gate: Gate, version: str
) -> None:
    async with client(apis[0], key=platform.key) as one:
        await one.initialize(version)
        async with one.open("POST", call(1, "call_back", gate=gate.name)) as answer:
            if version != LATEST:
                gate.open()
                assert text_of((await answer.rest())[-1]["result"]) == "through"
                return
            begun = await answer.event()
            with pytest.raises(EOFError, match=r"^\d+$"):
                await answer.event()
        gate.open()
        async with one.open("GET", base=apis[1], last_event_id=begun.id) as rest:
            assert text_of((await rest.rest())[-1]["result"]) == "through"


async def test_a_tool_may_hang_up_the_session_s_own_stream_too(platform: Platform, apis: list[str]) -> None:
    async with client(apis[0], key=platform.key) as one:
        await one.initialize()
        async with one.open("GET", base=apis[1]) as own:
            begun = await own.event()
            assert text_of(await one.call("hang_up", apis[2])) == "hung up"
            with pytest.raises(EOFError, match=r"^\d+$"):
                await own.event()
        async with one.open("GET", last_event_id=begun.id) as again:
            assert again.streams


async def test_many_questions_at_once_each_get_the_answer_to_their_own(platform: Platform, apis: list[str]) -> None:
    async def converse(one: Client, name: str, turn: int) -> None:
        base, elsewhere = apis[turn % 3], apis[(turn + 1) % 3]
        async with one.open("POST", call(turn % 2, "greet"), base) as answer:
            await one.tell(accept(await question(answer), name), elsewhere)
            assert text_of((await answer.rest())[-1]["result"]) == f"Hello {name}"

    async with client(apis[0], key=platform.key) as one:
        await one.initialize(capabilities=CAPABLE)
        other = one.other()
        await other.initialize(capabilities=CAPABLE)
        async with asyncio.TaskGroup() as group:
            for turn in range(20):
                group.create_task(converse((one, other)[turn % 2], f"name {turn}", turn))
