from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.api.auth import Identity
from trunkline.api.connections import Connections, Stream
from trunkline.api.http import Protocol
from trunkline.envelope import Accepted, Delivery
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.sessions import Attachment, Sent, Waiting
from trunkline.tenants.model import Limits, Tenant, public_principal

TENANT = Tenant("0" * 32, "acme", "Acme", "public", "active", Limits(10.0, 20, 5, 7), (), 1)
SESSION = "5" * 32


class Client:
    """The connection, and a client that reads or does not."""

    def __init__(self) -> None:
        self.keeps_up = True
        self.written: list[bytes] = []
        self._reads = asyncio.Event()

    @property
    def unread(self) -> int:
        return 1000

    def write_chunk(self, data: bytes) -> None:
        self.written.append(data)

    async def drained(self) -> None:
        await self._reads.wait()

    def read(self) -> None:
        self.keeps_up = True
        self._reads.set()

    @property
    def offsets(self) -> list[int]:
        text = b"".join(self.written).decode()
        return [int(line.rpartition(".")[2]) for line in text.splitlines() if line.startswith("id: ")]


def open_stream(client: Client, last: int = 0, session: str = SESSION, **settings: Any) -> Stream:
    identity = Identity.of(TENANT, public_principal(TENANT))
    limits = Settings(environment="dev", **settings)
    stream = Stream(identity, session, last, cast("Protocol", client), limits, Metrics("api"))
    stream._task = asyncio.create_task(asyncio.Event().wait())  # what holds the request open
    return stream


def hold(stream: Stream, *arrived: Delivery | Accepted) -> None:
    stream.hold_back()
    for each in arrived:
        stream.keep(each)


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_message_is_an_event_with_its_place_as_id() -> None:
    client = Client()
    assert open_stream(client).deliver(1, b'{"a":1}', b"c")
    assert client.written == [f'id: {SESSION}.1\nevent: message\ndata: {{"a":1}}\n\n'.encode()]


@given(st.lists(st.integers(1, 8), max_size=30))
async def test_in_whatever_order_messages_come_they_are_delivered_in_theirs_and_once(offsets: list[int]) -> None:
    client = Client()
    stream = open_stream(client)
    for offset in offsets:
        complete = stream.deliver(offset, b"{}", b"c")
        assert complete == (offset <= stream.last)
    assert client.offsets == list(range(1, stream.last + 1))


async def test_a_gap_is_told_and_nothing_is_skipped() -> None:
    client = Client()
    stream = open_stream(client, last=4)
    assert not stream.deliver(6, b"{}", b"c")
    assert stream.deliver(3, b"{}", b"c"), "what was delivered before is no gap"
    stream.catch_up([], [Sent(5, b"{}", b"c5"), Sent(6, b"{}", b"c6")])
    assert stream.deliver(7, b"{}", b"c")
    assert client.offsets == [5, 6, 7]


async def test_a_resumed_stream_begins_with_a_greeting_what_was_missed_and_what_came_meanwhile() -> None:
    client = Client()
    stream = open_stream(client, last=2)
    hold(
        stream,
        Delivery(SESSION, 1, 4, b"c4", b"to the stream before"),
        Delivery(SESSION, 1, 0, b"replaced", b""),
        Delivery(SESSION, 2, 4, b"c4", b"{}"),
        Delivery(SESSION, 2, 5, b"c5", b"{}"),
    )
    stream.attach(Attachment(2, 4, [Sent(3, b"{}", b"c3"), Sent(4, b"{}", b"c4")]))
    assert client.written == []
    stream.begin(b"hello\n")
    assert stream.generation == 2
    assert client.written[0] == b"hello\n"
    assert client.offsets == [3, 4, 5]
    assert b"before" not in b"".join(client.written)
    stream.deliver(6, b"{}", b"c")
    assert client.offsets == [3, 4, 5, 6]


async def test_a_slow_reader_gets_everything_in_order_once_it_reads() -> None:
    client = Client()
    stream = open_stream(client)
    stream.deliver(1, b"{}", b"c")
    client.keeps_up = False
    for offset in range(2, 6):
        stream.deliver(offset, b"{}", b"c")
    await settled()
    assert client.offsets == [1]
    client.read()
    await settled()
    stream.deliver(6, b"{}", b"c")
    assert client.offsets == [1, 2, 3, 4, 5, 6]
    assert not stream.ended


@pytest.mark.parametrize(
    ("bounds", "kept"), [({"stream_buffer_messages": 3}, 3), ({"stream_buffer_bytes": 1000}, 6)], ids=str
)
async def test_a_reader_slower_than_the_bounds_is_ended_and_not_before(bounds: dict[str, int], kept: int) -> None:
    client = Client()
    client.keeps_up = False
    stream = open_stream(client, **bounds)
    body = b"x" * 80
    for offset in range(1, kept + 1):
        stream.deliver(offset, body, b"c")
    assert not stream.ended
    for offset in range(kept + 1, kept + 3):
        stream.deliver(offset, body, b"c")
    assert stream.ended == "slow reader"
    assert client.offsets == []


async def test_one_message_larger_than_the_buffer_is_no_reason_to_end() -> None:
    client = Client()
    client.keeps_up = False
    stream = open_stream(client, stream_buffer_bytes=10)
    stream.deliver(1, b"x" * 1000, b"c")
    assert not stream.ended


async def test_a_write_that_stalls_for_too_long_ends_the_stream() -> None:
    client = Client()
    client.keeps_up = False
    stream = open_stream(client, stream_write_timeout=0.01)
    stream.deliver(1, b"{}", b"c")
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await stream._task
    assert stream.ended == "slow reader"


async def test_a_stream_ends_once_with_its_first_reason_and_writes_nothing_more() -> None:
    client = Client()
    stream = open_stream(client)
    stream.end("key revoked")
    stream.end("draining")
    stream.write(b"too late")
    assert stream.ended == "key revoked"
    assert client.written == []
    await settled()
    assert stream._task.cancelled()


async def test_what_a_leaving_stream_still_holds_goes_out_before_its_farewell() -> None:
    client = Client()
    client.keeps_up = False
    stream = open_stream(client)
    stream.deliver(1, b"{}", b"c")
    stream.deliver(2, b"{}", b"c")
    stream.end("draining")
    stream.part(b": bye\n\n")
    assert client.offsets == [1, 2]
    assert client.written[-1].endswith(b": bye\n\n")
    await settled()


async def test_a_second_stream_of_a_session_ends_the_first_and_outlives_it() -> None:
    connections = Connections()
    first, second, other = open_stream(Client()), open_stream(Client()), open_stream(Client(), session="6" * 32)
    for stream in (first, other, second):
        connections.add(stream)
    assert first.ended == "replaced"
    connections.remove(first)
    assert connections.get(SESSION) is second
    assert len(connections) == 2
    connections.remove(second)
    assert list(connections) == [other]


async def test_deliveries_are_kept_for_every_stream_that_is_attaching_their_session() -> None:
    connections = Connections()
    delivery = Delivery(SESSION, 2, 1, b"c1", b"{}")
    first, second = open_stream(Client()), open_stream(Client())
    connections.hold(delivery)
    for stream in (first, second):
        connections.hold_for(stream)
    connections.hold(delivery)
    connections.release(first)
    connections.hold(delivery)
    connections.release(second)
    connections.hold(delivery)
    assert [len(stream.hold.arrived) for stream in (first, second) if stream.hold] == [1, 2]
    assert not connections._attaching


async def test_a_stream_that_was_replaced_while_it_was_being_attached_ends() -> None:
    client = Client()
    stream = open_stream(client, last=2)
    hold(stream, Delivery(SESSION, 2, 3, b"c3", b"{}"), Delivery(SESSION, 2, 0, b"replaced", b""))
    stream.attach(Attachment(2, 2, []))
    stream.begin(b"hello\n")
    assert stream.ended == "replaced"
    assert client.offsets == [3]


# What is pending.


def ids_of_lost(client: Client) -> list[str]:
    lines = b"".join(client.written).decode().split("\n\n")
    lost = [line for line in lines if line.startswith(f"id: {SESSION}.lost\nevent: message\n")]
    answers = [json.loads(line.partition("data: ")[2]) for line in lost]
    assert all(answer["error"]["data"] == {"outcome": "unknown"} for answer in answers)
    assert all(answer["error"]["code"] == -32603 for answer in answers)
    return [answer["id"] for answer in answers]


async def test_what_is_pending_when_all_is_lost_is_answered_once_and_the_stream_ends() -> None:
    client = Client()
    stream = open_stream(client)
    for call, request_id in ((b"c1", b"1"), (b"c2", b'"two"'), (b"c3", b"3")):
        stream.expect(Accepted(SESSION, call, request_id))
    assert stream.take(Delivery(SESSION, 1, 1, b"c1", b"{}"))
    assert stream.lose("redis lost") == 2
    assert stream.lose("redis lost") == 0
    assert stream.ended == "redis lost"
    assert ids_of_lost(client) == ["two", 3]


async def test_what_was_answered_here_is_not_answered_again_if_redis_calls_it_pending() -> None:
    client = Client()
    stream = open_stream(client)
    for number in range(1, 101):
        stream.take(Delivery(SESSION, 1, number, b"c%d" % number, b"{}"))
    assert stream.take(Delivery(SESSION, 1, 101, b"c101.1", b"{}"))
    waiting = {number: Waiting(b"c%d" % number, b"%d" % number, 9.0) for number in (99, 100, 101)}
    assert stream.contradicted([waiting[101], waiting[99]], [])
    assert stream.contradicted([], [Sent(102, b"{}", b"c100")])
    assert not stream.contradicted([waiting[101]], [Sent(102, b"{}", b"c101.2")])
    stream.recall(list(waiting.values()), 98)
    assert stream.lose("messages lost") == 1
    assert ids_of_lost(client) == [101]


async def test_where_redis_went_back_further_than_a_stream_remembers_it_answers_only_what_it_knew_to_be_pending() -> (
    None
):
    client = Client()
    stream = open_stream(client)
    for number in range(1, 101):
        stream.take(Delivery(SESSION, 1, number, b"c%d" % number, b"{}"))
    stream.expect(Accepted(SESSION, b"c101", b"101"))
    stream.recall([Waiting(b"c1", b"1", 9.0), Waiting(b"c101", b"101", 9.0)], 0)
    assert stream.lose("messages lost") == 1
    assert ids_of_lost(client) == [101]


async def test_an_idle_stream_keeps_nothing_for_what_is_not_pending() -> None:
    stream = open_stream(Client())
    assert stream.pending is None
    stream.expect(Accepted(SESSION, b"c1", b"1"))
    stream.take(Delivery(SESSION, 1, 1, b"c1", b"{}"))
    assert stream.pending is None
    stream.catch_up([], [])
    assert stream.pending is None


async def test_an_answer_that_cannot_be_delivered_yet_settles_nothing() -> None:
    stream = open_stream(Client())
    stream.expect(Accepted(SESSION, b"c1", b"1"))
    assert not stream.take(Delivery(SESSION, 1, 2, b"c1", b"{}"))
    assert stream.pending
    stream.catch_up([], [Sent(1, b"{}", b"c0.1"), Sent(2, b"{}", b"c1")])
    assert stream.pending is None


async def test_a_call_is_overdue_some_seconds_after_its_deadline_and_progress_moves_that() -> None:
    stream = open_stream(Client(), call_timeout=60)
    now = 0.0
    stream._clock = lambda: now
    stream.expect(Accepted(SESSION, b"c1", b"1"))
    now = 40.0
    stream.expect(Accepted(SESSION, b"c2", b"2"))
    stream.take(Delivery(SESSION, 1, 1, b"c1.1", b"{}"))
    assert not stream.overdue(107.9)
    assert stream.overdue(108.0)
    stream.take(Delivery(SESSION, 1, 2, b"c2", b"{}"))
    stream.take(Delivery(SESSION, 1, 3, b"c1", b"{}"))
    assert not stream.overdue(1e9)


async def test_what_redis_says_is_pending_replaces_what_was_thought_to_be() -> None:
    client = Client()
    stream = open_stream(client)
    stream._clock = lambda: 100.0
    stream.expect(Accepted(SESSION, b"cancelled", b"0"))
    hold(stream, Accepted(SESSION, b"later", b"3"), Delivery(SESSION, 1, 2, b"answered", b"{}"))
    stream.catch_up(
        [Waiting(b"c1", b"1", 30.0), Waiting(b"late", b"2", 0.0), Waiting(b"answered", b"4", 20.0)],
        [Sent(1, b"{}", b"other"), Sent(2, b"{}", b"answered")],
    )
    assert stream.overdue(105.0), "it asks again soon for what is overdue and pending still"
    assert not stream.overdue(104.9)
    assert list(stream.pending or ()) == [b"late", b"c1", b"later"]
    assert stream.hold is not None
    assert not stream.hold.arrived, "it was in the outbox as well"


async def test_a_resumed_stream_knows_what_is_pending_and_nothing_that_the_one_before_delivered() -> None:
    stream = open_stream(Client(), last=2)
    hold(
        stream,
        Accepted(SESSION, b"c4", b"4"),
        Delivery(SESSION, 1, 3, b"c4", b"{}"),
        Accepted(SESSION, b"c5", b"5"),
        Accepted(SESSION, b"c6", b"6"),
        Delivery(SESSION, 2, 4, b"c6", b"{}"),
    )
    stream.attach(Attachment(2, 3, [Sent(3, b"{}", b"c4")], [Waiting(b"c1", b"1", 5.0)]))
    stream.begin(b"hello\n")
    assert set(stream.pending or ()) == {b"c1", b"c5"}


@given(st.lists(st.sampled_from(["accept", "answer", "lag", "fill"]), max_size=40))
async def test_however_notes_and_answers_come_what_is_pending_is_what_was_not_delivered(steps: list[str]) -> None:
    """Redis on one side, the pod on the other, and between them copies that arrive late, but in order."""
    client = Client()
    stream = open_stream(client)
    accepted, outbox, wire = 0, [], []
    for step in steps:
        if step == "accept":
            accepted += 1
            wire.append(Accepted(SESSION, b"c%d" % accepted, b"%d" % accepted))
        elif step == "answer" and len(outbox) < accepted:
            outbox.append(Sent(len(outbox) + 1, b"{}", b"c%d" % (len(outbox) + 1)))
            wire.append(Delivery(SESSION, 1, len(outbox), outbox[-1].tag, b"{}"))
        elif step == "lag" and wire:
            arrived = wire.pop(0)
            if isinstance(arrived, Accepted):
                stream.expect(arrived)
            else:
                stream.take(arrived)
        elif step == "fill":
            waiting = [Waiting(b"c%d" % n, b"%d" % n, 9.0) for n in range(len(outbox) + 1, accepted + 1)]
            stream.catch_up(waiting, outbox[stream.last :])
    for arrived in wire:
        if isinstance(arrived, Accepted):
            stream.expect(arrived)
        else:
            assert stream.take(arrived)
    assert client.offsets == list(range(1, len(outbox) + 1))
    assert set(stream.pending or ()) == {b"c%d" % n for n in range(len(outbox) + 1, accepted + 1)}


class SlowClient(Client):
    """A client that has read some more whenever it is looked at, and keeps up after a while."""

    looks = 0

    @property
    def unread(self) -> int:
        self.looks += 1
        if self.looks == 6:
            self.read()
        return 1000 - self.looks


async def test_a_reader_that_is_slow_but_reads_on_is_kept() -> None:
    client = SlowClient()
    client.keeps_up = False
    stream = open_stream(client, stream_write_timeout=0.01)
    stream.deliver(1, b"{}", b"c")
    assert stream._flushing is not None
    async with asyncio.timeout(5):
        await stream._flushing
    assert client.offsets == [1]
    assert not stream.ended


# What is missed comes in pages.


async def test_a_stream_is_behind_until_the_newest_message_that_it_has_heard_of_was_handed_to_it() -> None:
    client = Client()
    stream = open_stream(client, last=2)
    stream.attach(Attachment(2, 5, [Sent(3, b"{}", b"c3")]))
    stream.begin(b"hello\n")
    assert stream.behind
    stream.catch_up([], [Sent(4, b"{}", b"c4"), Sent(5, b"{}", b"c5")])
    assert not stream.behind
    assert not stream.take(Delivery(SESSION, 2, 7, b"c7", b"{}"))
    assert stream.behind
    assert client.offsets == [3, 4, 5]


@pytest.mark.parametrize(
    ("bounds", "kept"), [({"stream_buffer_messages": 6}, 3), ({"stream_buffer_bytes": 1000}, 2)], ids=str
)
async def test_what_is_held_is_bounded_and_the_rest_left_to_the_outbox(bounds: dict[str, Any], kept: int) -> None:
    client = Client()
    stream = open_stream(client, **bounds)
    arrived = [Delivery(SESSION, 1, offset, b"c%d" % offset, b"x" * 80) for offset in range(2, 12)]
    requests = [Accepted(SESSION, each.tag, b"1") for each in arrived]
    hold(stream, *requests, *arrived)
    assert stream.hold is not None
    assert stream.hold.arrived == [*requests, *arrived[:kept]], "what was accepted is known nowhere else"
    assert stream.newest == 11
    stream.catch_up([], [Sent(1, b"{}", b"c1")])
    assert stream.hold.arrived == arrived[:kept]
    stream.release()
    assert client.offsets == list(range(1, 2 + kept))
    assert stream.behind
    assert set(stream.pending or ()) == {each.tag for each in arrived[kept:]}


async def test_a_copy_that_comes_later_than_the_page_with_its_message_still_settles_its_call() -> None:
    stream = open_stream(Client(), last=4, stream_buffer_messages=1)
    hold(stream, Accepted(SESSION, b"c4", b"4"), Delivery(SESSION, 1, 4, b"c4", b"{}"))
    stream.catch_up([], [])
    assert stream.pending is None


async def test_a_call_that_is_taken_back_while_its_acceptance_is_held_is_not_expected() -> None:
    stream = open_stream(Client())
    hold(stream, Accepted(SESSION, b"c1", b"1"), Accepted(SESSION, b"c2", b"2"))
    stream.forget(b"c1")
    stream.catch_up([], [])
    assert set(stream.pending or ()) == {b"c2"}


async def test_what_may_be_answered_behind_a_page_stays_pending_and_is_not_doubted() -> None:
    stream = open_stream(Client())
    for number in (1, 2, 3):
        stream.expect(Accepted(SESSION, b"c%d" % number, b"%d" % number))
    for missed in (Sent(1, b"{}", b"c1"), Sent(2, b"{}", b"c2")):
        stream.newest = 3
        assert not stream.doubt([], [missed])
        stream.catch_up([], [missed])
    assert set(stream.pending or ()) == {b"c3"}
    assert not stream.doubt([], [Sent(3, b"{}", b"c3")])
    stream.catch_up([], [Sent(3, b"{}", b"c3")])
    assert stream.pending is None


async def test_who_waits_for_a_reader_goes_on_when_it_has_read_or_its_stream_has_ended() -> None:
    client = Client()
    client.keeps_up = False
    stream, leaving = open_stream(client), open_stream(client)
    for each in (stream, leaving):
        each.deliver(1, b"{}", b"c")
    waiting = [asyncio.create_task(each.ready()) for each in (stream, leaving)]
    await settled()
    assert not any(task.done() for task in waiting)
    leaving.end("draining")
    leaving.part(b"")
    await settled()
    assert [task.done() for task in waiting] == [False, True]
    client.read()
    await settled()
    await asyncio.wait_for(waiting[0], 5)
    assert not stream._buffer


async def test_a_reader_that_nothing_can_be_read_for_is_ended_when_it_stalls() -> None:
    client = Client()
    client.keeps_up = False
    stream = open_stream(client, stream_write_timeout=0.01)
    await asyncio.wait_for(stream.ready(), 5)
    assert stream.ended == "slow reader"


class Wire:
    """Redis on one side, the pod on the other, which looks, reads a page and holds what comes, at any moment."""

    def __init__(self, client: Client) -> None:
        self.stream = open_stream(client, stream_buffer_messages=4)  # of which two are held
        self.accepted = 0
        self.outbox: list[Sent] = []
        self.wire: list[Accepted | Delivery] = []
        self.looked: tuple[int, list[Waiting]] | None = None

    def accept(self) -> None:
        self.accepted += 1
        self.wire.append(Accepted(SESSION, b"c%d" % self.accepted, b"%d" % self.accepted))

    def answer(self) -> None:
        offset = len(self.outbox) + 1
        if offset <= self.accepted:
            self.outbox.append(Sent(offset, b"{}", b"c%d" % offset))
            self.wire.append(Delivery(SESSION, 1, offset, b"c%d" % offset, b"{}"))

    def lag(self) -> None:
        if not self.wire:
            return
        arrived = self.wire.pop(0)
        if self.stream.hold is not None:
            self.stream.keep(arrived)
        elif isinstance(arrived, Accepted):
            self.stream.expect(arrived)
        else:
            self.stream.take(arrived)

    def hold(self) -> None:
        if self.stream.hold is None:
            self.stream.hold_back()

    def look(self) -> None:
        if self.stream.hold is not None:
            pending = range(len(self.outbox) + 1, self.accepted + 1)
            self.looked = len(self.outbox), [Waiting(b"c%d" % n, b"%d" % n, 9.0) for n in pending]

    def page(self) -> None:
        if self.looked is not None:
            newest, pending = self.looked
            self.looked = None
            self.stream.newest = max(self.stream.newest, newest)
            missed = self.outbox[self.stream.last : self.stream.last + 2]
            self.stream.doubt(pending, missed)
            self.stream.catch_up(pending, missed)

    def release(self) -> None:
        self.looked = None
        self.stream.release()

    def come_to_rest(self) -> None:
        while self.wire:
            self.lag()
        self.hold()
        self.look()
        while self.stream.behind or self.stream.last < len(self.outbox):
            self.page()
            self.look()
        self.page()
        self.release()


@given(st.lists(st.sampled_from(["accept", "answer", "lag", "hold", "look", "page", "release"]), max_size=60))
async def test_however_pages_and_copies_mix_each_message_comes_once_and_in_order(steps: list[str]) -> None:
    client = Client()
    wire = Wire(client)
    for step in steps:
        getattr(wire, step)()
    wire.come_to_rest()
    answered = len(wire.outbox)
    assert client.offsets == list(range(1, answered + 1))
    assert not wire.stream.doubtful
    assert set(wire.stream.pending or ()) == {b"c%d" % n for n in range(answered + 1, wire.accepted + 1)}
