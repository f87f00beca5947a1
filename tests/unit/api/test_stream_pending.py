"""What a stream knows of the calls that its client waits for, and when it answers them itself."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.api.streams import SESSION, Client, hold, open_stream

from trunkline.envelope import Accepted, Delivery
from trunkline.streams.sessions import Attachment, Sent, Waiting


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
    hold(stream, Accepted(SESSION, b"later", b"3"), Delivery(SESSION, 1, 2, b"c4", b"{}"))
    stream.catch_up(
        [Waiting(b"c1", b"1", 30.0), Waiting(b"late", b"2", 0.0), Waiting(b"c4", b"4", 20.0)],
        [Sent(1, b"{}", b"c0"), Sent(2, b"{}", b"c4")],
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
    stream.attach(Attachment(2, 3, [Sent(3, b"{}", b"c4")], [Waiting(b"c1", b"1", 5.0)], 2))
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
