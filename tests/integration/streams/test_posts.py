"""Streams of POSTs, sessions that a message opens, and stateless requests."""

from __future__ import annotations

import asyncio

import orjson
import pytest
import uuid_utils
from tests.integration.streams.conftest import PLENTY, Wire
from tests.integration.streams.posts import Posts, listening

from trunkline.errors import SessionNotFound, TooManySessions
from trunkline.settings import Settings
from trunkline.streams.calls import CANCELLED, Message
from trunkline.streams.client import source
from trunkline.streams.lost import LostWorkers
from trunkline.streams.outbox import Outbox
from trunkline.streams.sessions import Owner, Sent, Sessions, is_stream_name, new_session_id, stream_name


@pytest.fixture
def posts(wire: Wire) -> Posts:
    return Posts(wire)


def test_a_stream_is_named_by_its_session_and_its_call() -> None:
    session, call = new_session_id(), uuid_utils.uuid7().hex
    assert is_stream_name(stream_name(session))
    assert is_stream_name(stream_name(session, call))
    assert not any(map(is_stream_name, ("", ".", f"{session}.", f"{session}.x", f"{session}.{call}.{call}")))


async def test_a_message_opens_its_session_and_is_accepted_in_one_step(posts: Posts) -> None:
    session, call = await posts.open()

    (claimed,) = await posts.claimed(call)

    assert (claimed.session, claimed.transport, claimed.caller, claimed.context) == (
        session, "http", b'{"of":"caller"}', b"",
    )  # fmt: skip
    await posts.post(session)


async def test_a_session_that_may_not_be_opened_leaves_nothing(posts: Posts) -> None:
    await posts.open(limit=2)  # the fixture's session is the first
    with pytest.raises(TooManySessions):
        await posts.open(limit=2)
    assert await posts.wire.in_flight() == 1


async def test_a_session_of_one_transport_does_not_exist_on_another(posts: Posts) -> None:
    session, _ = await posts.open()
    with pytest.raises(SessionNotFound):
        await posts.wire.calls.accept(posts.wire.owner, Message(uuid_utils.uuid7().hex, session, b"1", b"{}"), PLENTY)
    with pytest.raises(SessionNotFound):
        await posts.post(posts.wire.session)


async def test_the_answer_of_a_post_goes_to_its_stream_alone(posts: Posts) -> None:
    session, _ = await posts.open()
    async with listening(posts.wire.redis, posts.pods + "pod-a") as channel:
        one, two = await posts.post(session, b"1"), await posts.post(session, b"2")
        for call in reversed(await posts.claimed(one, two)):
            await posts.wire.outbox.publish(call, b'{"of":"%b"}' % call.id.encode(), "ok")
        first, second = await channel.next(), await channel.next()

    assert [(each.stream, each.generation, each.offset, each.tag.decode()) for each in (first, second)] == [
        (stream_name(session, two), 1, 1, two), (stream_name(session, one), 1, 1, one),
    ]  # fmt: skip


async def test_progress_and_answer_of_a_post_share_its_offsets(posts: Posts) -> None:
    session, _ = await posts.open()
    call = await posts.post(session)
    (claimed,) = await posts.claimed(call)
    assert await posts.wire.outbox.notify(claimed, 1, b"progress") == 1
    assert await posts.wire.outbox.publish(claimed, b"answer", "ok") == 2

    missed = await posts.wire.sessions.missed(posts.owner.tenant, stream_name(session, call), 0)
    assert [each.body for each in missed] == [b"progress", b"answer"]


async def test_another_pod_takes_over_the_stream_of_a_post(posts: Posts) -> None:
    session, _ = await posts.open()
    call = await posts.post(session, b'"seven"')
    name = stream_name(session, call)
    (claimed,) = await posts.claimed(call)
    await posts.wire.outbox.notify(claimed, 1, b"progress")
    pod_b = Sessions(posts.wire.redis, "pod-b")

    async with (
        listening(posts.wire.redis, posts.pods + "pod-a") as before,
        listening(posts.wire.redis, posts.pods + "pod-b") as after,
    ):
        attached = await pod_b.attach(posts.owner, name, 0)
        assert (attached.generation, attached.last, attached.newest) == (2, 0, 1)
        assert attached.missed == [Sent(1, b"progress", f"{call}.1-1".encode())]
        assert [(each.call.decode(), each.request_id) for each in attached.pending] == [(call, b'"seven"')]
        assert (await before.next()).tag == b"replaced"

        await posts.wire.outbox.publish(claimed, b"answer", "ok")
        assert (await after.next())[:3] == (name, 2, 2)
    touched = await pod_b.touch(posts.owner.tenant, name, 2)
    assert touched is not None
    assert (touched.newest, touched.pending) == (2, [])
    assert await pod_b.touch(posts.owner.tenant, name, 1) is None


async def test_what_a_stream_waits_for_is_its_own(posts: Posts) -> None:
    session, opening = await posts.open()
    await posts.claimed(opening)
    call = await posts.post(session)
    own = await posts.wire.sessions.attach(posts.owner, session, None)
    assert own.pending == []
    attached = await posts.wire.sessions.attach(posts.owner, stream_name(session, call), 0)
    assert [each.call.decode() for each in attached.pending] == [call]


async def test_a_stream_of_another_session_or_owner_does_not_exist(posts: Posts) -> None:
    session, _ = await posts.open()
    other, _ = await posts.open()
    call = await posts.post(session)
    stranger = Owner(posts.owner.tenant, "key_two", "http")
    for owner, name in ((stranger, stream_name(session, call)), (posts.owner, stream_name(other, call))):
        with pytest.raises(SessionNotFound):
            await posts.wire.sessions.attach(owner, name, 0)


async def test_several_requests_of_one_post_share_a_stream(posts: Posts) -> None:
    session, _ = await posts.open()
    first = await posts.post(session, b"1", several=True)
    second = await posts.post(session, b"2", stream=first)
    for number, call in enumerate(await posts.claimed(first, second), 1):
        assert await posts.wire.outbox.publish(call, b"{}", "ok") == number
    third = uuid_utils.uuid7().hex  # the first of its POST was refused
    alone = await posts.post(session, b"3", stream=third)
    (claimed,) = await posts.claimed(alone)
    assert await posts.wire.outbox.publish(claimed, b"{}", "ok") == 1
    assert len(await posts.wire.sessions.missed(posts.owner.tenant, stream_name(session, third), 0)) == 1


async def test_the_stream_of_several_requests_waits_for_all_of_them(posts: Posts) -> None:
    session, _ = await posts.open()
    first = await posts.post(session, b"1", several=True)
    second = await posts.post(session, b"2", stream=first)
    await posts.post(session, b"3")
    attached = await posts.wire.sessions.attach(posts.owner, stream_name(session, first), 0)
    assert {each.request_id for each in attached.pending} == {b"1", b"2"}
    (claimed,) = await posts.claimed(first)
    await posts.wire.outbox.publish(claimed, b"{}", "ok")
    touched = await posts.wire.sessions.touch(posts.owner.tenant, stream_name(session, first), attached.generation)
    assert touched is not None
    assert [each.call.decode() for each in touched.pending] == [second]


async def test_a_stream_that_was_read_to_its_end_is_kept_for_a_while(posts: Posts) -> None:
    session, _ = await posts.open()
    call = await posts.post(session)
    (claimed,) = await posts.claimed(call)
    await posts.wire.outbox.publish(claimed, b"{}", "ok")
    keys = posts.wire.redis.keys.stream(posts.owner.tenant, stream_name(session, call))
    posts.wire.calls.forget(posts.owner.tenant, stream_name(session, call), resumable=True)
    async with asyncio.timeout(10):
        for key in keys:
            while await posts.wire.redis.command("PTTL", key) > 120_000:
                pass
    assert [each.body for each in (await posts.wire.sessions.attach(posts.owner, f"{session}.{call}", 0)).missed] == [
        b"{}"
    ]


async def test_a_cancelled_request_ends_the_stream_of_its_post(posts: Posts) -> None:
    session, _ = await posts.open()
    call = await posts.post(session, b"5")
    assert await posts.wire.calls.cancel(posts.owner, session, b"5") == [call]
    (sent,) = await posts.wire.sessions.missed(posts.owner.tenant, stream_name(session, call), 0)
    assert sent.body == b'{"jsonrpc":"2.0","id":5,"error":' + CANCELLED + b"}"
    assert sent.tag.decode() == call


async def test_the_end_of_a_session_is_told_to_the_streams_of_its_posts(posts: Posts) -> None:
    session, opening = await posts.open()
    (claimed,) = await posts.claimed(opening)
    await posts.wire.outbox.publish(claimed, b"{}", "ok")
    call = await posts.post(session, pod="pod-b")
    async with listening(posts.wire.redis, posts.pods + "pod-b") as channel:
        assert await posts.wire.sessions.close(posts.owner, session) == [call]
        assert (await channel.next())[:4] == (stream_name(session, call), 1, 0, b"closed")
    with pytest.raises(SessionNotFound):
        await posts.wire.sessions.attach(posts.owner, stream_name(session, call), 0)


async def test_an_overdue_call_is_answered_on_the_stream_of_its_post(posts: Posts) -> None:
    session, _ = await posts.open()
    call = await posts.post(session)
    names = posts.wire.redis.keys.tenant(posts.owner.tenant)
    member = f"{posts.owner.tenant}:{session}:{call}"
    await posts.wire.redis.command("ZADD", names.deadlines, 1, member)
    assert call in await posts.wire.calls.sweep(names.number, 0)
    (sent,) = await posts.wire.sessions.missed(posts.owner.tenant, stream_name(session, call), 0)
    assert orjson.loads(sent.body)["error"]["code"] == -32001


async def test_the_first_stream_of_a_session_begins_with_what_was_sent_before(posts: Posts) -> None:
    session, _ = await posts.open()
    await _put(posts, session, b"early")
    first = await posts.wire.sessions.attach(posts.owner, session, None)
    assert (first.generation, first.last, [each.body for each in first.missed]) == (1, 0, [b"early"])
    later = await posts.wire.sessions.attach(posts.owner, session, None)
    assert (later.generation, later.last, later.missed) == (2, 1, [])


async def test_the_first_stream_of_a_session_begins_with_what_is_kept(posts: Posts) -> None:
    session, _ = await posts.open()
    for number in range(25):  # 20 are kept
        await _put(posts, session, b"%d" % number)
    first = await posts.wire.sessions.attach(posts.owner, session, None)
    assert (first.last, first.newest, first.missed[0].body) == (5, 25, b"5")


async def _put(posts: Posts, session: str, body: bytes) -> None:
    """Append to a session's own stream, as a change that is announced does."""
    keys = posts.wire.redis.keys
    tenant = keys.tenant(posts.owner.tenant)
    assert await _subscribed(posts, session)
    await posts.wire.redis.script(
        "broadcast",
        [tenant.subscribers, keys.told(posts.owner.tenant, "")],
        ["0", f"{tenant.base}s:", tenant.pods, 20, 10_000, 600_000, "b.0", "", "x:", "", body],
    )


async def _subscribed(posts: Posts, session: str) -> bool:
    keys = posts.wire.redis.keys
    names = [
        keys.stream(posts.owner.tenant, session)[0],
        keys.subscriptions(posts.owner.tenant, session),
        keys.tenant(posts.owner.tenant).subscribers,
    ]
    return bool(await posts.wire.redis.script("subscribe", names, [session, "x:", 60_000, 10]))


async def test_a_stateless_request_has_a_record_of_its_own(posts: Posts) -> None:
    call = await posts.lone(b'{"params":{}}')
    (claimed,) = await posts.claimed(call)
    assert (claimed.session, claimed.transport, claimed.context) == (call, "modern", b'{"params":{}}')
    assert await posts.wire.outbox.publish(claimed, b"answer", "ok") == 1
    assert (
        await posts.wire.redis.command("ZSCORE", posts.wire.redis.keys.tenant(posts.owner.tenant).sessions, call)
        is None
    )
    touched = await posts.wire.sessions.touch(posts.owner.tenant, call, 1)
    assert touched is not None
    assert touched.newest == 1


async def test_a_stateless_request_is_taken_back_without_a_word(posts: Posts) -> None:
    call = await posts.lone()
    owner = Owner(posts.owner.tenant, posts.owner.principal, "lone")
    assert await posts.wire.calls.cancel(owner, call, b"1") == [call]
    assert await posts.wire.sessions.missed(posts.owner.tenant, call, 0) == []
    assert await posts.wire.in_flight() == 0


async def test_what_was_delivered_whole_is_forgotten(posts: Posts) -> None:
    session, _ = await posts.open()
    call, told, lone = await posts.post(session), await posts.post(session), await posts.lone()
    names = [stream_name(session, call), stream_name(session, told), lone]
    for claimed in await posts.claimed(call, told, lone):
        if claimed.id == told:
            await posts.wire.outbox.notify(claimed, 1, b"{}")
        await posts.wire.outbox.publish(claimed, b"{}", "ok")
    keys = [key for name in names for key in posts.wire.redis.keys.stream(posts.owner.tenant, name)]
    assert await posts.wire.redis.command("EXISTS", *keys) == 4, "three outboxes and a record"

    for name in names:
        posts.wire.calls.forget(posts.owner.tenant, name)
    async with asyncio.timeout(10):
        while await posts.wire.redis.command("EXISTS", *keys):
            pass
    await posts.post(session)  # which goes on


async def test_a_stream_is_hung_up_on_where_it_is_held(posts: Posts) -> None:
    session, _ = await posts.open()
    call = await posts.post(session)
    (claimed,) = await posts.claimed(call)
    await posts.wire.sessions.attach(posts.owner, session, None)
    async with listening(posts.wire.redis, posts.pods + "pod-a") as channel:
        await posts.wire.outbox.hang_up(claimed)
        await posts.wire.outbox.hang_up(claimed, own=True)
        assert [(await channel.next())[:4] for _ in range(2)] == [
            (stream_name(session, call), 1, 0, b"poll"), (session, 1, 0, b"poll"),
        ]  # fmt: skip


async def test_a_repeated_request_is_accepted_once(posts: Posts) -> None:
    keys = posts.wire.redis.keys
    tenant = keys.tenant(posts.owner.tenant)
    session, call = new_session_id(), uuid_utils.uuid7().hex
    fixed = posts.wire.calls._fixed
    until = int(posts.wire.redis.clock.now_ms() + 60_000)
    args = [
        *fixed, tenant.lane, until, *posts.wire.calls._session_rate,
        1, posts.owner.mark, posts.owner.tenant, 10, 1, 1000, "open", "pod-a", "http", 10, "{}", "",
        1, call, "1", "{}", "", session, call, "",
    ]  # fmt: skip
    names = [tenant.deadlines, tenant.calls]
    connection = await posts.wire.redis.dial("test")
    for repeated in (0, 1):
        reply = await connection.send("EVAL", source("accept"), 2, *names, *args, repeated)
        assert reply == [-1 if repeated else 999]
    (claimed,) = await posts.claimed(call)
    await posts.wire.outbox.publish(claimed, b"{}", "ok")
    assert await connection.send("EVAL", source("accept"), 2, *names, *args, 1) == [-1]
    assert await posts.wire.in_flight() == 0
    connection.close()
    await connection.lost


async def test_a_worker_that_is_lost_leaves_a_post_that_another_runs(posts: Posts, redis_settings: Settings) -> None:
    session, _ = await posts.open()
    call = await posts.post(session)
    (claimed,) = await posts.claimed(call)
    lane = posts.wire.redis.keys.tenant(posts.owner.tenant).number
    fates = await LostWorkers(posts.wire.redis).reclaim(lane, {"w1": b""})
    assert (call, "again") in fates
    (again,) = await posts.claimed(call)
    assert (again.transport, again.attempt) == ("http", 2)
    assert await posts.wire.outbox.publish(claimed, b"late", "ok") == 0
    assert await Outbox(posts.wire.redis, "w1").publish(again, b"answer", "ok") == 1
