"""Streams that have no record, since nobody has sent anything on them but the answer."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.streams.conftest import Wire
from tests.integration.streams.posts import Posts, listening

from trunkline.errors import SessionNotFound
from trunkline.streams.lost import LostWorkers
from trunkline.streams.sessions import Sent, Sessions, stream_name


@pytest.fixture
def posts(wire: Wire) -> Posts:
    return Posts(wire)


@pytest.fixture
def pod_b(posts: Posts) -> Sessions:
    return Sessions(posts.wire.redis, "pod-b")


async def _exist(posts: Posts, name: str) -> tuple[int, int]:
    record, outbox = posts.wire.redis.keys.stream(posts.owner.tenant, name)
    return await posts.wire.redis.command("EXISTS", record), await posts.wire.redis.command("EXISTS", outbox)


async def test_a_post_that_is_only_answered_never_has_a_record(posts: Posts) -> None:
    session, _ = await posts.open()
    call = await posts.post(session, b"7")
    name = stream_name(session, call)
    assert await _exist(posts, name) == (0, 0)
    touched = await posts.wire.sessions.touch(posts.owner.tenant, name, 1)
    assert touched is not None
    assert (touched.newest, [each.request_id for each in touched.pending]) == (0, [b"7"])

    (claimed,) = await posts.claimed(call)
    await posts.wire.outbox.publish(claimed, b"answer", "ok")
    assert await _exist(posts, name) == (0, 1)
    assert await posts.wire.redis.command("PTTL", posts.wire.redis.keys.stream(posts.owner.tenant, name)[1]) > 0
    touched = await posts.wire.sessions.touch(posts.owner.tenant, name, 1)
    assert touched is not None
    assert (touched.newest, touched.pending) == (1, [])


async def test_its_answer_goes_to_the_pod_that_has_taken_it_over(posts: Posts, pod_b: Sessions) -> None:
    session, _ = await posts.open()
    call = await posts.post(session)
    name = stream_name(session, call)
    async with (
        listening(posts.wire.redis, posts.pods + "pod-a") as before,
        listening(posts.wire.redis, posts.pods + "pod-b") as after,
    ):
        attached = await pod_b.attach(posts.owner, name, 0)
        assert (attached.generation, attached.newest, len(attached.pending)) == (2, 0, 1)
        assert (await before.next())[:4] == (name, 1, 0, b"replaced")
        (claimed,) = await posts.claimed(call)
        await posts.wire.outbox.publish(claimed, b"answer", "ok")
        assert (await after.next())[:3] == (name, 2, 1)
    assert await posts.wire.sessions.touch(posts.owner.tenant, name, 1) is None
    touched = await pod_b.touch(posts.owner.tenant, name, 2)
    assert touched is not None
    assert (touched.newest, touched.pending) == (1, [])


async def test_another_pod_resumes_it_after_its_answer(posts: Posts, pod_b: Sessions) -> None:
    session, _ = await posts.open()
    call = await posts.post(session)
    name = stream_name(session, call)
    (claimed,) = await posts.claimed(call)
    await posts.wire.outbox.publish(claimed, b"answer", "ok")
    for generation in (2, 3):
        attached = await pod_b.attach(posts.owner, name, 0)
        assert (attached.generation, attached.newest) == (generation, 1)
        assert attached.missed == [Sent(1, b"answer", call.encode())]
    with pytest.raises(SessionNotFound):
        await pod_b.attach(posts.owner, name, 2)
    assert await posts.wire.redis.command("PTTL", posts.wire.redis.keys.stream(posts.owner.tenant, name)[0]) > 0


async def test_a_call_that_is_run_again_stays_where_it_is_awaited(posts: Posts) -> None:
    session, _ = await posts.open()
    silent, told = await posts.post(session), await posts.post(session)
    _, claimed = await posts.claimed(silent, told)
    assert await posts.wire.outbox.notify(claimed, 1, b"progress") == 1
    lane = posts.wire.redis.keys.tenant(posts.owner.tenant).number
    await LostWorkers(posts.wire.redis).reclaim(lane, {"w1": b""})
    for again in await posts.claimed(silent, told):
        assert await posts.wire.outbox.publish(again, b"answer", "ok") == (2 if again.id == told else 1)


async def test_a_stream_that_is_gone_has_ended(posts: Posts) -> None:
    session, _ = await posts.open()
    call, lone = await posts.post(session), await posts.lone()
    names = [stream_name(session, call), lone]
    for claimed in await posts.claimed(call, lone):
        await posts.wire.outbox.publish(claimed, b"answer", "ok")
    for name in names:
        await posts.wire.redis.command("DEL", posts.wire.redis.keys.stream(posts.owner.tenant, name)[1])
        with pytest.raises(SessionNotFound):
            await posts.wire.sessions.touch(posts.owner.tenant, name, 1)
    with pytest.raises(SessionNotFound):
        await posts.wire.sessions.attach(posts.owner, names[0], 0)


async def test_a_session_that_is_lost_has_ended_whatever_its_outbox_holds(posts: Posts) -> None:
    wire = posts.wire
    await wire.accept(b"{}")
    (claimed,) = await wire.claim()
    await wire.outbox.publish(claimed, b"answer", "ok")
    await wire.redis.command("DEL", wire.redis.keys.stream(wire.owner.tenant, wire.session)[0])
    for generation in (1, 2):
        with pytest.raises(SessionNotFound):
            await wire.sessions.touch(wire.owner.tenant, wire.session, generation)


async def test_the_record_of_a_stateless_request_leaves_with_its_answer(posts: Posts) -> None:
    call = await posts.lone()
    touched = await posts.wire.sessions.touch(posts.owner.tenant, call, 1)
    assert touched is not None
    assert (touched.newest, [each.call.decode() for each in touched.pending]) == (0, [call])
    (claimed,) = await posts.claimed(call)
    assert await posts.wire.outbox.notify(claimed, 1, b"progress") == 1
    assert await posts.wire.outbox.publish(claimed, b"answer", "ok") == 2
    assert await _exist(posts, call) == (0, 1)
    touched = await posts.wire.sessions.touch(posts.owner.tenant, call, 1)
    assert touched is not None
    assert (touched.newest, touched.pending) == (2, [])
    missed = await posts.wire.sessions.missed(posts.owner.tenant, call, 0)
    assert [each.body for each in missed] == [b"progress", b"answer"]


async def test_a_stateless_request_that_its_pod_has_forgotten_is_still_answered(
    posts: Posts,
) -> None:
    call = await posts.lone()
    (claimed,) = await posts.claimed(call)
    await posts.wire.outbox.notify(claimed, 1, b"progress")
    posts.wire.calls.forget(posts.owner.tenant, call)
    async with asyncio.timeout(10):
        while await _exist(posts, call) != (1, 0):
            pass
    assert await posts.wire.outbox.publish(claimed, b"answer", "ok") == 2
    assert await _exist(posts, call) == (0, 1)
    assert await posts.wire.redis.command("PTTL", posts.wire.redis.keys.stream(posts.owner.tenant, call)[1]) > 0
