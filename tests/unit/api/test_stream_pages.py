"""What a client has missed comes in pages, and what comes meanwhile is held within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.api.streams import SESSION, Client, hold, open_stream, settled

from trunkline.envelope import Accepted, Delivery
from trunkline.streams.sessions import Attachment, Sent, Waiting


async def test_a_stream_is_behind_until_the_newest_message_that_it_has_heard_of_was_handed_to_it() -> None:
    client = Client()
    stream = open_stream(client, last=2)
    stream.attach(Attachment(2, 5, [Sent(3, b"{}", b"c3")], last=2))
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
    leaving.part()
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


@example(["accept", "answer", "hold", "look", "page", "lag", "look", "page"])
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
