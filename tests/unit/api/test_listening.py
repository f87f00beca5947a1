from __future__ import annotations

import json
from typing import Any, cast

import pytest
from tests.unit.api.streams import TENANT, Client

from trunkline.api.auth import Identity
from trunkline.api.connection import Protocol
from trunkline.api.connections import Connections
from trunkline.api.listen import Listeners, Listening, _wishes
from trunkline.api.messages import Message
from trunkline.api.streaming import Streaming
from trunkline.errors import InvalidParams
from trunkline.settings import Settings
from trunkline.tenants.model import public_principal

SUBSCRIPTION = {"_meta": {"io.modelcontextprotocol/subscriptionId": "a\u00e9"}}


def listening(client: Client, **wanted: Any) -> Listening:
    identity = Identity.of(TENANT, public_principal(TENANT), "lone")
    params = {"notifications": wanted}
    wishes = _wishes(Message("request", b"", "subscriptions/listen", params))
    request_id = json.dumps("a\u00e9").encode()
    return Listening(identity, request_id, wishes, cast("Protocol", client), Settings(environment="dev"))


def messages(client: Client) -> list[dict[str, Any]]:
    events = b"".join(client.written).decode().split("\n\n")
    return [json.loads(event.removeprefix("event: message\ndata: ")) for event in events if event]


async def test_it_says_first_what_it_will_tell_of_and_nothing_else_before() -> None:
    client = Client()
    stream = listening(client, toolsListChanged=True, promptsListChanged=False, resourceSubscriptions=["b", "a"])
    stream.lists_changed(["tools"])
    assert client.written == []
    stream.begin(stream.acknowledgement())
    (first,) = messages(client)
    assert first["method"] == "notifications/subscriptions/acknowledged"
    assert first["params"] == {
        "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["a", "b"]},
        **SUBSCRIPTION,
    }


async def test_it_tells_of_what_was_asked_for_and_each_message_names_the_subscription() -> None:
    client = Client()
    stream = listening(client, toolsListChanged=True, resourceSubscriptions=["a"])
    stream.begin(b": x\n\n")
    client.written.clear()
    stream.lists_changed(["prompts", "tools", "unknown"])
    stream.updated("b")
    stream.updated("a")
    stream.changed()
    told = messages(client)
    assert [message["method"].removeprefix("notifications/") for message in told] == [
        "tools/list_changed", "resources/updated", "tools/list_changed", "resources/updated",
    ]  # fmt: skip
    assert all(message["params"].items() >= SUBSCRIPTION.items() for message in told)
    assert told[1]["params"]["uri"] == "a"


async def test_its_end_is_the_answer_to_its_request() -> None:
    client = Client()
    stream = listening(client)
    stream.begin(stream.acknowledgement())
    client.written.clear()
    stream.leave()
    stream.lists_changed(["tools"])
    stream.part()
    (last,) = messages(client)
    assert last == {"jsonrpc": "2.0", "id": "a\u00e9", "result": {"resultType": "complete", **SUBSCRIPTION}}


class Streams:
    """As much of `Streaming` as counting listeners takes."""

    settings = Settings(environment="dev")


async def test_a_change_that_several_pods_announce_is_told_once_and_to_its_tenant_alone() -> None:
    client, connections = Client(), Connections()
    listeners = Listeners(cast("Streaming", Streams()), connections)
    stream = listening(client, toolsListChanged=True)
    stream.begin(b": x\n\n")
    client.written.clear()
    connections.listening.add(stream)
    listeners._count[TENANT.id] += 1
    for tenant, change in (
        (TENANT.id, "a"),
        ("1" * 32, "b"),
        (TENANT.id, "a"),
        (TENANT.id, "b"),
        (TENANT.id, ""),
        (TENANT.id, ""),
    ):
        listeners.lists_changed(tenant, ["tools"], change)
    assert len(messages(client)) == 4
    for number in range(1000):
        listeners.lists_changed(TENANT.id, [], str(number))
    assert len(listeners._told) == 64


@pytest.mark.parametrize("params", [{}, {"notifications": []}, {"notifications": {"resourceSubscriptions": [7]}}])
def test_wishes_of_another_shape_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        _wishes(Message("request", b"1", "subscriptions/listen", params))
