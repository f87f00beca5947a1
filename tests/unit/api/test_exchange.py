"""When the answer to a POST is a document, when it is a stream, and what either says."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.api.streams import SESSION, TENANT, Client

from trunkline.api.auth import Identity
from trunkline.api.connection import CLIENT_GONE, Protocol
from trunkline.api.events import DRAINING, KEEP_ALIVE, POLL, REPLACED, SESSION_ENDED
from trunkline.api.exchange import ANSWERED, Exchange, Form, reason_of
from trunkline.envelope import Accepted, Delivery
from trunkline.errors import Forbidden, SessionNotFound, TooManyRequests, Unauthorized
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.sessions import Attachment, Sent, Waiting
from trunkline.tenants.model import public_principal

NAME = f"{SESSION}.{'c' * 32}"
NOTE = b'{"jsonrpc":"2.0","method":"notifications/progress"}'


def answer_to(request_id: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": {}}, separators=(",", ":")).encode()


def exchange(client: Client, *calls: str, last: int = 0, **form: Any) -> Exchange:
    identity = Identity.of(TENANT, public_principal(TENANT), "http")
    settings = Settings(environment="dev")
    made = Exchange(identity, NAME, Form(**form), cast("Protocol", client), settings, Metrics("api"), last)
    for number, call in enumerate(calls, 1):
        made.expect(Accepted(NAME, call.encode(), b"%d" % number))
    return made


def take(made: Exchange, offset: int, tag: str, body: bytes) -> bool:
    return made.take(Delivery(NAME, 1, offset, tag.encode(), body))


def text_of(client: Client) -> str:
    return b"".join(client.written).decode()


async def test_an_answer_that_comes_first_is_a_document() -> None:
    client = Client()
    made = exchange(client, "c1")
    assert not made.over.done()
    take(made, 1, "c1", answer_to(1))
    assert made.over.done()
    assert (made.ended, made.streams, made.whole, made.document) == (ANSWERED, False, True, answer_to(1))
    assert client.written == []


async def test_a_message_before_the_answer_makes_a_stream_of_both() -> None:
    client = Client()
    made = exchange(client, "c1", primed=True)
    waiting = made.over
    take(made, 1, "c1.1-1", NOTE)
    assert waiting.done()
    assert made.streams
    assert not made.over.done(), "what its request waits for next"
    take(made, 2, "c1.1-2", NOTE)
    assert client.written == [], "the head is not there yet"
    made.begin(made.greeting())
    head, *_ = client.written[0].decode().split("\n\n")
    assert head.startswith(f"id: {NAME}.0\nretry: "), "it resumes from before what came meanwhile"
    assert head.endswith("\ndata: ")
    take(made, 3, "c1", answer_to(1))
    assert client.offsets == [0, 1, 2, 3]
    assert made.ended == ANSWERED
    made.part()
    assert text_of(client).endswith(f"data: {answer_to(1).decode()}\n\n"), "nothing is said after the answer"


async def test_an_answer_that_comes_before_the_head_of_its_stream_is_on_it() -> None:
    client = Client()
    made = exchange(client, "c1")
    made.stream()
    take(made, 1, "c1", answer_to(1))
    assert made.ended == ANSWERED
    made.begin(made.greeting())
    made.part()
    assert client.offsets == [1]


async def test_who_takes_no_events_gets_the_answer_alone() -> None:
    client = Client()
    made = exchange(client, "c1", events=False)
    take(made, 1, "c1.1-1", NOTE)
    made.write(KEEP_ALIVE)
    made.stream()
    made.leave()
    made.end(POLL)
    assert not made.streams
    assert not made.ended
    take(made, 2, "c1", answer_to(1))
    assert (made.ended, made.document) == (ANSWERED, answer_to(1))


async def test_a_sign_of_life_is_that_the_stream_begins() -> None:
    client = Client()
    made = exchange(client, "c1", numbered=False)
    made.write(KEEP_ALIVE)
    assert made.streams
    made.begin(made.greeting())
    assert client.written == [KEEP_ALIVE]
    take(made, 1, "c1", answer_to(1))
    assert text_of(client) == f"{KEEP_ALIVE.decode()}event: message\ndata: {answer_to(1).decode()}\n\n"


async def test_a_batch_is_answered_when_each_of_it_is() -> None:
    made = exchange(Client(), "c1", "c2", "c3", array=True)
    take(made, 1, "c3", answer_to(3))
    made.refuse(b"c1", TooManyRequests("Later."))
    assert not made.ended
    take(made, 2, "c2", answer_to(2))
    assert made.ended == ANSWERED
    third, first, second = json.loads(made.document)
    assert (third["id"], second["id"]) == (3, 2)
    assert (first["id"], first["error"]["message"]) == (1, "Later.")


async def test_what_was_answered_already_is_not_refused() -> None:
    made = exchange(Client(), "c1", "c2", array=True)
    take(made, 1, "c1", answer_to(1))
    made.refuse(b"c1", TooManyRequests("Later."))
    take(made, 2, "c2", answer_to(2))
    made.refuse(b"c2", TooManyRequests("Later."))
    assert json.loads(made.document) == [json.loads(answer_to(1)), json.loads(answer_to(2))]


async def test_what_comes_of_a_request_that_was_refused_is_not_sent_and_has_its_place() -> None:
    client = Client()
    made = exchange(client, "c1", "c2")
    made.stream()
    made.begin(made.greeting())
    made.refuse(b"c2", TooManyRequests("Later."))
    assert take(made, 1, "c2.1-1", NOTE)
    assert take(made, 2, "c2", answer_to(2))
    assert not made.ended
    assert take(made, 3, "c1", answer_to(1))
    assert (client.offsets, made.ended) == ([3], ANSWERED)


async def test_a_refusal_on_a_stream_has_no_id_so_that_the_rest_is_resumed_from_before() -> None:
    client = Client()
    made = exchange(client, "c1", "c2")
    made.stream()
    made.begin(made.greeting())
    made.refuse(b"c1", TooManyRequests("Later."))
    assert '"message":"Later."' in text_of(client)
    assert "id: " not in text_of(client)


async def test_an_exchange_that_has_ended_is_not_lost_besides() -> None:
    made = exchange(Client(), "c1")
    made.end("key revoked")
    assert made.lose("redis lost") == 0
    assert not made.whole, "its request is told why it ended"


async def test_what_is_lost_while_it_is_undecided_is_a_document_that_says_so() -> None:
    made = exchange(Client(), "c1")
    assert made.lose("redis lost") == 1
    assert made.over.done()
    assert made.whole
    assert made.failure(b"1") == -32603


@pytest.mark.parametrize("reason", ["key revoked", "key expired", "tenant changed", SESSION_ENDED])
async def test_what_is_ended_for_good_answers_on_its_stream_why(reason: str) -> None:
    client = Client()
    made = exchange(client, "c1", "c2")
    made.stream()
    made.begin(made.greeting())
    take(made, 1, "c1", answer_to(1))
    made.end(reason)
    made.part()
    *_, last = [line for line in text_of(client).splitlines() if line]
    error = json.loads(last.removeprefix("data: "))
    assert (error["id"], error["error"]["message"]) == (2, reason_of(reason).message)
    assert f"id: {NAME}.lost" in text_of(client)


async def test_why_it_ended_undecided_is_an_error_with_its_status() -> None:
    reasons = {
        "key revoked": Unauthorized,
        "key expired": Unauthorized,
        "tenant changed": Forbidden,
        SESSION_ENDED: SessionNotFound,
    }
    for reason, error in reasons.items():
        made = exchange(Client(), "c1")
        made.end(reason)
        assert not made.whole
        assert type(reason_of(made.ended)) is error


@pytest.mark.parametrize(("primed", "streams"), [(True, True), (False, False)])
async def test_only_who_knows_from_where_is_sent_to_another_pod(primed: bool, streams: bool) -> None:
    client = Client()
    made = exchange(client, "c1", primed=primed)
    made.leave()
    assert (made.streams, bool(made.ended)) == (streams, streams)
    if not streams:
        take(made, 1, "c1.1-1", NOTE)
        made.begin(made.greeting())
        made.leave()
    else:
        made.begin(made.greeting())
    assert made.ended == DRAINING
    made.part()
    assert "retry: " in text_of(client)
    assert text_of(client).endswith(": draining\n\n")
    assert "lost" not in text_of(client), "another pod will answer"


@pytest.mark.parametrize("streams", [False, True])
async def test_what_can_be_resumed_only_after_its_pod_began_to_stop_is_sent_away_then(streams: bool) -> None:
    client = Client()
    made = exchange(client, "c1", "c2")
    if streams:
        made.stream()
        made.begin(made.greeting())
    made.leave()
    assert not made.ended
    take(made, 1, "c1.1-1", NOTE)
    assert made.ended == DRAINING
    if not streams:
        made.begin(made.greeting())
    made.part()
    assert client.offsets == [1]
    assert "lost" not in text_of(client)


async def test_the_last_answer_ends_a_stream_though_its_pod_stops() -> None:
    made = exchange(Client(), "c1")
    made.stream()
    made.begin(made.greeting())
    made.leave()
    take(made, 1, "c1", answer_to(1))
    assert made.ended == ANSWERED


async def test_a_stream_that_another_connection_took_over_says_nothing_of_what_is_pending() -> None:
    client = Client()
    made = exchange(client, "c1")
    made.stream()
    made.begin(made.greeting())
    made.end(REPLACED)
    made.part()
    assert text_of(client).endswith(": replaced\n\n")


async def test_a_resumed_stream_ends_with_its_last_answer_and_at_once_if_that_was_seen() -> None:
    for missed, pending, ended in (
        ([Sent(3, NOTE, b"c1.1-2"), Sent(4, answer_to(1), b"c1")], [], True),
        ([], [], True),
        ([Sent(3, NOTE, b"c1.1-2")], [Waiting(b"c1", b"1", 9.0)], False),
    ):
        client = Client()
        made = exchange(client, json=False, last=2)
        made.hold_back()
        made.attach(Attachment(2, 2 + len(missed), missed, pending, 2))
        assert not made.ended
        made.begin(b": here\n\n")
        assert client.offsets == [sent.offset for sent in missed]
        assert made.ended == (ANSWERED if ended else "")
        if not ended:
            made.take(Delivery(NAME, 2, 4, b"c1", answer_to(1)))
            assert made.ended == ANSWERED


async def test_a_resumed_stream_with_more_pages_to_come_does_not_end_between_them() -> None:
    client = Client()
    made = exchange(client, json=False)
    made.hold_back()
    made.attach(Attachment(2, 3, [Sent(1, answer_to(1), b"c1")], [], 0))
    made.begin(b": here\n\n")
    assert made.behind
    assert not made.ended
    made.catch_up([], [Sent(2, NOTE, b"c2.1-1"), Sent(3, answer_to(2), b"c2")])
    assert made.ended == ANSWERED
    assert client.offsets == [1, 2, 3]


async def test_a_client_that_goes_before_anything_was_decided_ends_it() -> None:
    made = exchange(Client(), "c1")
    made.end(CLIENT_GONE)
    assert made.over.done()
    assert not made.whole
    take(made, 1, "c1", answer_to(1))
    assert made.ended == CLIENT_GONE


@given(st.sampled_from([b"1", b'"a\\"b"', b"18446744073709551615"]))
async def test_an_answer_tells_whether_it_is_an_error_however_it_is_written(request_id: bytes) -> None:
    error = b'{"code":-32601,"message":"x"}'
    for body, code in (
        (b'{"jsonrpc":"2.0","id":%b,"result":{"error":{"code":1}}}' % request_id, None),
        (b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id, error), -32601),
        (b'{"result":{},"id":%b,"jsonrpc":"2.0"}' % request_id, None),
        (b'{"error":%b,"id":%b,"jsonrpc":"2.0"}' % (error, request_id), -32601),
    ):
        made = exchange(Client(), "c1")
        take(made, 1, "c1", body)
        assert made.failure(request_id) == code


@given(st.lists(st.sampled_from(["note", "answer", "stream", "begin", "late", "twice"]), max_size=12))
async def test_however_things_come_each_message_is_said_once_and_nothing_after_the_last_answer(
    steps: list[str],
) -> None:
    client = Client()
    made = exchange(client, "c1", "c2", primed=True)
    sent: list[tuple[int, str, bytes]] = []
    answers = [("c1", answer_to(1)), ("c2", answer_to(2))]
    held: list[tuple[int, str, bytes]] = []
    for step in steps:
        match step:
            case "note" if answers:
                sent.append((len(sent) + 1, f"{answers[0][0]}.1-{len(sent)}", NOTE))
                take(made, *sent[-1])
            case "answer" if answers:
                sent.append((len(sent) + 1, *answers.pop(0)))
                take(made, *sent[-1])
            case "stream":
                made.stream()
            case "begin" if made.streams and not made._begun:
                made.begin(made.greeting())
            case "late" if sent:
                held.append(sent[-1])
            case "twice" if held:
                take(made, *held.pop())
    if not made.streams:
        assert client.written == []
        assert all("." not in tag for _, tag, _ in sent)
        assert made.whole == (not answers)
        return
    if not made._begun:
        made.begin(made.greeting())
    assert client.offsets == list(range(len(sent) + 1))
    assert (made.ended == ANSWERED) == (not answers)
