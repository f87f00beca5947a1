"""Sessions, resuming and tickets."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.streams.conftest import Wire

from trunkline.envelope import TELLS_OF_ACCEPTED, Accepted, Delivery
from trunkline.errors import SessionNotFound, TooManyRequests, TooManySessions
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.sessions import Owner, Sessions, Touched, most_sessions, new_session_id


async def test_a_session_is_resumed_on_another_pod_from_where_it_was(wire: Wire) -> None:
    await _answer(wire, 3)
    resumed = await Sessions(wire.redis, "pod-b").attach(wire.owner, wire.session, 1)
    assert [(sent.offset, sent.body) for sent in resumed.missed] == [(2, b"2"), (3, b"3")]
    assert resumed.generation == 2
    assert resumed.newest == 3


async def test_live_copies_go_to_the_pod_that_attached_last(wire: Wire) -> None:
    heard: list[Delivery] = []
    arrived = asyncio.Event()

    def push(reply: list[bytes]) -> None:
        if reply[0] == b"message":
            if reply[2][0] == TELLS_OF_ACCEPTED:
                return
            heard.extend(Delivery.from_payload(reply[2])[1])
            arrived.set()

    pods = wire.redis.keys.tenant(wire.owner.tenant).pods
    listener = await wire.redis.dial("test", on_push=push)
    listener.push("SUBSCRIBE", f"{pods}pod-b")
    await Sessions(wire.redis, "pod-b").attach(wire.owner, wire.session, 0)
    await _answer(wire, 1)
    async with asyncio.timeout(5):
        await arrived.wait()
    listener.close()
    assert [(each.generation, each.offset, each.body) for each in heard] == [(2, 1, b"1")]


async def test_a_resume_that_would_skip_messages_finds_no_session(wire: Wire) -> None:
    await _answer(wire, 25)  # the outbox keeps 20
    with pytest.raises(SessionNotFound):
        await wire.sessions.attach(wire.owner, wire.session, 3)
    resumed = await wire.sessions.attach(wire.owner, wire.session, 5)
    assert [sent.offset for sent in resumed.missed] == list(range(6, 26))


@pytest.mark.parametrize(
    ("bounds", "pages"),
    [
        ({"stream_buffer_messages": 6}, [3, 3, 3, 3, 3, 3, 2]),
        ({"stream_buffer_messages": 1}, [1] * 20),
        ({"stream_buffer_messages": 36}, [18, 2]),
        ({"stream_buffer_bytes": 2 * 17 * 102}, [17, 3]),
        ({"stream_buffer_bytes": 1}, [1] * 20),
    ],
    ids=str,
)
async def test_what_was_missed_is_read_in_pages_of_half_of_what_is_kept_for_a_reader(
    wire: Wire, bounds: dict[str, int], pages: list[int]
) -> None:
    for number in range(10, 30):
        await wire.accept()
        (call,) = await wire.claim()
        await wire.outbox.publish(call, b"%d" % number, "ok")
    settings = wire.redis.settings.model_copy(update=bounds)
    redis = await Redis.connect(settings, "test")
    sessions = Sessions(redis, "pod-b")
    attached = await sessions.attach(wire.owner, wire.session, 0)
    assert attached.newest == 20
    found = [attached.missed]
    while found[-1]:
        found.append(await sessions.missed(wire.owner.tenant, wire.session, found[-1][-1].offset))
    assert [len(page) for page in found] == [*pages, 0]
    assert [sent.offset for page in found for sent in page] == list(range(1, 21))
    await redis.aclose()


async def test_the_outbox_is_bounded_in_bytes_from_its_oldest_end(wire: Wire) -> None:
    for number in range(6):
        await wire.accept(request_id=str(number).encode())
    for call in await wire.claim():
        await wire.outbox.publish(call, b"x" * 4000, "ok")
    assert [offset for offset, _ in await wire.sent()] == [5, 6]


async def test_nobody_resumes_what_was_not_sent_yet_or_is_not_theirs(wire: Wire) -> None:
    await _answer(wire, 1)
    for owner, session, last in (
        (wire.owner, wire.session, 2),
        (Owner(wire.owner.tenant, "key_two"), wire.session, 1),
        (Owner("e" * 32, wire.owner.principal), wire.session, 1),
        (wire.owner, new_session_id(), 0),
    ):
        with pytest.raises(SessionNotFound):
            await wire.sessions.attach(owner, session, last)


async def test_a_tenant_has_no_more_sessions_than_its_limit(redis: Redis) -> None:
    owner, sessions = Owner("a" * 32, "key"), Sessions(redis, "pod")
    await sessions.open(owner, new_session_id(), b"{}", 2)
    second = new_session_id()
    await sessions.open(owner, second, b"{}", 2)
    with pytest.raises(TooManyRequests):
        await sessions.open(owner, new_session_id(), b"{}", 2)
    await sessions.close(owner, second)
    await sessions.open(owner, new_session_id(), b"{}", 2)


async def test_a_key_has_no_more_sessions_than_its_own_limit_however_they_end(redis: Redis) -> None:
    sessions = Sessions(redis, "pod")
    mine, other = (Owner("a" * 32, key) for key in ("key_1", "key_2"))
    first, second = new_session_id(), new_session_id()
    for session in (first, second, first):  # what is repeated opens nothing
        await sessions.open(mine, session, b"{}", most_sessions(10, 2))
    with pytest.raises(TooManySessions, match="API key has as many sessions") as refused:
        await sessions.open(mine, new_session_id(), b"{}", most_sessions(10, 2))
    assert refused.value.retry_after == 30
    await sessions.open(other, new_session_id(), b"{}", most_sessions(10, 2))
    await sessions.open(other, new_session_id(), b"{}", most_sessions(10))

    await sessions.close(mine, first)
    third = new_session_id()
    await sessions.open(mine, third, b"{}", most_sessions(10, 2))
    await redis.command("ZADD", redis.keys.tenant(mine.tenant).sessions, "XX", 1, second)  # it has expired
    await sessions.open(mine, new_session_id(), b"{}", most_sessions(10, 2))
    with pytest.raises(TooManySessions):
        await sessions.open(mine, new_session_id(), b"{}", most_sessions(10, 2))
    key = f"{redis.keys.tenant(mine.tenant).base}key:key_1:sessions"
    assert await redis.command("ZCARD", key) == 2, "those that ended are forgotten"
    with pytest.raises(TooManySessions, match="tenant"):
        await sessions.open(other, new_session_id(), b"{}", most_sessions(4, 9))


async def test_at_a_keys_limit_its_own_session_left_longest_makes_room_and_nobody_elses(redis: Redis) -> None:
    sessions = Sessions(redis, "pod")
    mine, other = (Owner("a" * 32, key) for key in ("key_1", "key_2"))
    theirs, left = new_session_id(), new_session_id()
    await sessions.open(other, theirs, b"{}", most_sessions(10))
    await sessions.open(mine, left, b"{}", most_sessions(10, 1))
    seconds, _ = await redis.command("TIME")
    for session, ends in ((theirs, 30), (left, 60)):
        await redis.command(
            "ZADD", redis.keys.tenant(mine.tenant).sessions, "XX", (int(seconds) + ends) * 1000, session
        )
    await sessions.open(mine, new_session_id(), b"{}", most_sessions(10, 1))
    with pytest.raises(SessionNotFound):
        await sessions.attach(mine, left, 0)
    await sessions.attach(other, theirs, 0)


async def test_a_tenant_opens_sessions_no_faster_than_its_rate_once_its_burst_is_spent(
    redis_settings: Settings,
) -> None:
    slow = redis_settings.model_copy(update={"session_rate": 0.1, "session_burst": 2})
    redis = await Redis.connect(slow, "test")
    owner, sessions = Owner("a" * 32, "key"), Sessions(redis, "pod")
    again = new_session_id()
    for session in (again, new_session_id(), again):  # what is repeated opens nothing and costs nothing
        await sessions.open(owner, session, b"{}", 10)
    with pytest.raises(TooManySessions, match="faster") as refused:
        await sessions.open(owner, new_session_id(), b"{}", 10)
    assert 0 < (refused.value.retry_after or 0) <= 10
    await sessions.open(Owner("b" * 32, "key"), new_session_id(), b"{}", 10)
    await redis.aclose()


async def test_whoever_attaches_or_touches_a_session_learns_what_is_pending(wire: Wire) -> None:
    first = await wire.accept(request_id=b"1")
    second = await wire.accept(request_id=b'"two"')
    (call, _) = await wire.claim()
    await wire.outbox.publish(call, b"{}", "ok")
    left = {first, second} - {call.id}
    ids = {first: b"1", second: b'"two"'}
    attached = await Sessions(wire.redis, "pod-b").attach(wire.owner, wire.session, 0)
    touched = await wire.sessions.touch(wire.owner.tenant, wire.session, 2)
    assert touched is not None
    for pending in (attached.pending, touched.pending):
        (waiting,) = pending
        assert {waiting.call.decode()} == left
        assert waiting.request_id == ids[waiting.call.decode()]
        assert 50 < waiting.left <= 60
    await wire.redis.command("DEL", wire.redis.keys.tenant(wire.owner.tenant).deadlines)
    again = await wire.sessions.touch(wire.owner.tenant, wire.session, 2)
    assert again is not None
    assert [waiting.left for waiting in again.pending] == [0]


async def test_the_pod_that_holds_a_stream_is_told_what_is_accepted_for_it(wire: Wire) -> None:
    told: asyncio.Queue[list[Accepted]] = asyncio.Queue()

    def push(reply: list[bytes]) -> None:
        if reply[0] == b"message":
            told.put_nowait(Accepted.from_payload(reply[2]))

    listener = await wire.redis.dial("test", on_push=push)
    listener.push("SUBSCRIBE", f"{wire.redis.keys.tenant(wire.owner.tenant).pods}pod-a")
    call = await wire.accept(request_id=b'"line\\nbreak"')
    async with asyncio.timeout(5):
        assert await told.get() == [Accepted(wire.session, call.encode(), b'"line\\nbreak"')]
    listener.close()


async def test_at_the_limit_the_session_left_longest_makes_room_unless_it_waits_for_an_answer(wire: Wire) -> None:
    tenant = wire.redis.keys.tenant(wire.owner.tenant)
    seconds, _ = await wire.redis.command("TIME")
    # It ends in a minute: nobody has used it for the half hour before.
    await wire.redis.command("ZADD", tenant.sessions, "XX", (int(seconds) + 60) * 1000, wire.session)
    call = await wire.accept()
    with pytest.raises(TooManyRequests):
        await wire.sessions.open(wire.owner, new_session_id(), b"{}", 1)
    (claimed,) = await wire.claim()
    assert claimed.id == call
    await wire.outbox.publish(claimed, b"{}", "ok")
    await wire.sessions.open(wire.owner, new_session_id(), b"{}", 1)
    with pytest.raises(SessionNotFound):
        await wire.sessions.attach(wire.owner, wire.session, 0)
    with pytest.raises(TooManyRequests):
        await wire.sessions.open(wire.owner, new_session_id(), b"{}", 1)


async def test_a_closed_session_forgets_its_calls_and_is_gone(wire: Wire) -> None:
    call = await wire.accept()
    assert await wire.sessions.close(wire.owner, wire.session) == [call]
    assert await wire.in_flight() == 0
    assert await wire.claim(16) == []
    with pytest.raises(SessionNotFound):
        await wire.accept()
    with pytest.raises(SessionNotFound):
        await wire.sessions.close(wire.owner, wire.session)


async def test_touching_tells_how_far_the_outbox_has_come_and_who_replaced_whom(wire: Wire) -> None:
    await _answer(wire, 2)
    assert await wire.sessions.touch(wire.owner.tenant, wire.session, 1) == Touched(2, [])
    await Sessions(wire.redis, "pod-b").attach(wire.owner, wire.session, 2)
    assert await wire.sessions.touch(wire.owner.tenant, wire.session, 1) is None
    with pytest.raises(SessionNotFound):
        await wire.sessions.touch(wire.owner.tenant, new_session_id(), 1)


async def test_a_ticket_opens_once_and_only_at_its_tenant(wire: Wire) -> None:
    ticket = await wire.sessions.issue_ticket(wire.owner.tenant, b"who\nelse")
    assert await wire.sessions.take_ticket("b" * 32, ticket) is None
    assert await wire.sessions.take_ticket(wire.owner.tenant, ticket) == b"who\nelse"
    assert await wire.sessions.take_ticket(wire.owner.tenant, ticket) is None


async def test_every_key_of_a_session_expires(wire: Wire) -> None:
    await _answer(wire, 1)
    await wire.accept()
    tenant = wire.redis.keys.tenant(wire.owner.tenant)
    for key in (*wire.redis.keys.stream(wire.owner.tenant, wire.session), tenant.sessions, tenant.usage):
        assert await wire.redis.command("PTTL", key) > 0, key


async def _answer(wire: Wire, count: int) -> None:
    for number in range(1, count + 1):
        await wire.accept()
        (call,) = await wire.claim()
        await wire.outbox.publish(call, str(number).encode(), "ok")
