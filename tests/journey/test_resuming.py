"""A stream that breaks is taken up again on any pod: same session, same endpoint, what was missed, once, in order."""

from __future__ import annotations

import httpx2
import pytest
from tests.journey.conftest import Platform
from tests.sse import connect, text_of

from trunkline.api.run import ApiProcess

MANY = 100
"""Calls of which the answers are many pages, and far more than is kept for a slow reader."""


async def test_a_client_that_comes_back_gets_what_it_missed_in_order_and_once(platform: Platform) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.worker()
    async with connect(first, key=platform.key) as before:
        await before.initialize()
        seen = before.last_id
        for number in range(5):
            await before.call("echo", {"text": str(number)})
    async with connect(second, key=platform.key, last_event_id=seen) as after:
        assert after.endpoint == before.endpoint
        events = [await after.event() for _ in range(5)]
        assert [text_of(event.message["result"]) for event in events] == list("01234")
        assert [event.id for event in events] == [f"{before.session}.{offset}" for offset in range(2, 7)]
        assert text_of(await after.call("echo", {"text": "still here"})) == "still here"


async def test_a_quick_reader_gets_more_than_a_page_in_one_resume_and_what_is_sent_meanwhile(
    platform: Platform,
) -> None:
    """Each page is read when the one before has left; live answers wait behind, or are read with a later page."""
    api = await platform.api(stream_buffer_bytes=100_000, stream_buffer_messages=8)
    await platform.worker()
    large = "x" * 30_000
    async with connect(api, key=platform.key) as before:
        await before.initialize()
        seen = before.last_id
        for number in range(MANY):
            await before.call("echo", {"text": f"{number} {large}"})
        async with connect(api, key=platform.key, last_event_id=seen) as after:
            for number in range(MANY, MANY + 20):
                await after.send("tools/call", {"name": "echo", "arguments": {"text": f"{number} {large}"}})
            events = [await after.event() for _ in range(MANY + 20)]
            texts = [text_of(event.message["result"]).partition(" ")[0] for event in events]
            assert sorted(texts, key=int) == [str(number) for number in range(MANY + 20)]
            assert texts[:MANY] == [str(number) for number in range(MANY)]
            assert [event.id for event in events] == [f"{before.session}.{n}" for n in range(2, MANY + 22)]
            assert text_of(await after.call("echo", {"text": "still here"})) == "still here"


async def test_calls_made_while_no_stream_is_open_are_answered_after_resuming(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as before:
        await before.initialize()
        seen = before.last_id
    async with connect(api, key=platform.key) as helper:
        helper.endpoint = before.endpoint
        await helper.send("tools/call", {"name": "echo", "arguments": {"text": "alone"}})
    async with connect(api, key=platform.key, last_event_id=seen) as after:
        assert text_of((await after.event()).message["result"]) == "alone"


async def test_a_browser_that_saw_nothing_but_the_endpoint_resumes_too(platform: Platform) -> None:
    api = await platform.api()
    async with connect(api, key=platform.key) as before:
        assert before.last_id == f"{before.session}.0"
    async with connect(api, key=platform.key, last_event_id=before.last_id) as after:
        assert after.session == before.session


@pytest.mark.parametrize("same_pod", [True, False])
async def test_a_second_stream_of_a_session_replaces_the_first(platform: Platform, same_pod: bool) -> None:
    first = await platform.api()
    second = first if same_pod else await platform.api()
    await platform.worker()
    async with connect(first, key=platform.key) as before:
        await before.initialize()
        async with connect(second, key=platform.key, last_event_id=before.last_id) as after:
            assert "replaced" in await before.ended()
            assert text_of(await after.call("echo", {"text": "mine now"})) == "mine now"


@pytest.mark.parametrize("seen", ["nonsense", "0" * 32 + ".3", "{session}.99", "{session}.-1", "{session}", ".5"])
async def test_an_id_that_no_stream_of_ours_has_sent_resumes_nothing(platform: Platform, seen: str) -> None:
    api = await platform.api()
    async with connect(api, key=platform.key) as stream:
        with pytest.raises(ConnectionRefusedError) as refused:
            async with connect(api, key=platform.key, last_event_id=seen.format(session=stream.session)):
                pass
    assert refused.value.args[0] == 404


async def test_another_key_resumes_nothing_and_learns_nothing(platform: Platform) -> None:
    api = await platform.api()
    other, _ = await platform.keys.issue("demo")
    answers = []
    async with connect(api, key=platform.key) as stream:
        for seen in (f"{stream.session}.0", "0" * 32 + ".0"):
            with pytest.raises(ConnectionRefusedError) as refused:
                async with connect(api, key=other, last_event_id=seen):
                    pass
            answers.append(refused.value.args)
    assert answers[0] == answers[1]


async def test_messages_lost_between_pods_are_filled_from_the_outbox(platform: Platform) -> None:
    """Pub/sub loses what it carries while a pod's subscription is broken; the stream has no hole for all that."""
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for _ in range(3):
            await platform.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
            sent = {await stream.send("ping") for _ in range(4)}
            assert {(await stream.event()).message["id"] for _ in sent} == sent
        offsets = int(stream.last_id.partition(".")[2])
        assert offsets == 13


async def test_who_opens_sessions_too_fast_is_told_when_to_come_back_and_may_resume_meanwhile(
    platform: Platform,
) -> None:
    api = await platform.api(session_rate=0.1, session_burst=2)
    async with connect(api, key=platform.key) as first, connect(api, key=platform.key):
        async with httpx2.AsyncClient(trust_env=False) as http:
            refused = await http.get(f"{api}/t/demo/sse", headers=first.headers)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 10
            assert 'trunkline_refusals_total{reason="sessions"} 1.0' in (await http.get(f"{api}/metrics")).text
        async with connect(api, key=platform.key, last_event_id=first.last_id) as again:
            assert again.session == first.session


async def test_a_stream_that_ends_for_good_says_so_in_an_event(platform: Platform) -> None:
    api = await platform.api()
    key, issued = await platform.keys.issue("demo")
    async with connect(api, key=key) as stream:
        await platform.keys.revoke(issued.id)
        end = await stream.event()
        assert (end.kind, end.data) == ("end", "key revoked")


async def test_a_pod_that_stops_sends_its_clients_to_others(platform: Platform) -> None:
    leaving, staying = await platform.api(), await platform.api()
    await platform.worker()
    async with connect(leaving, key=platform.key) as before:
        await before.initialize()
        await platform.stop(platform.process(ApiProcess))
        assert "retry:" in await before.ended()
    async with connect(staying, key=platform.key, last_event_id=before.last_id) as after:
        assert text_of(await after.call("echo", {"text": "here"})) == "here"
