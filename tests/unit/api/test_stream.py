"""What a stream delivers, in which order, and when it ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.api.streams import SESSION, Client, hold, open_stream, settled

from trunkline.api.connections import Connections
from trunkline.envelope import Delivery
from trunkline.streams.sessions import Attachment, Sent


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
    stream.attach(Attachment(2, 4, [Sent(3, b"{}", b"c3"), Sent(4, b"{}", b"c4")], last=2))
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
        await stream.over
    assert stream.ended == "slow reader"


async def test_a_stream_ends_once_with_its_first_reason_and_writes_nothing_more() -> None:
    client = Client()
    stream = open_stream(client)
    stream.end("key revoked")
    stream.end("draining")
    stream.write(b"too late")
    assert stream.ended == "key revoked"
    assert client.written == []
    assert stream.over.done()


async def test_what_a_leaving_stream_still_holds_goes_out_before_its_farewell() -> None:
    client = Client()
    client.keeps_up = False
    stream = open_stream(client)
    stream.deliver(1, b"{}", b"c")
    stream.deliver(2, b"{}", b"c")
    stream.end("draining")
    stream.part()
    assert client.offsets == [1, 2]
    assert b"\n\nretry: " in client.written[-1]
    assert client.written[-1].endswith(b"\n: draining\n\n")
    await settled()


async def test_a_second_stream_of_a_session_ends_the_first_and_outlives_it() -> None:
    connections = Connections()
    first, second, other = open_stream(Client()), open_stream(Client()), open_stream(Client(), session="6" * 32)
    for stream in (first, other, second):
        connections.add(stream)
    assert first.ended == "replaced"
    connections.remove(first)
    assert connections.get(SESSION) is second
    assert len(list(connections)) == 2
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
    stream.attach(Attachment(2, 2, [], last=2))
    stream.begin(b"hello\n")
    assert stream.ended == "replaced"
    assert client.offsets == [3]


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
