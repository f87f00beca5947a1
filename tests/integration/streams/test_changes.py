"""What changed at a tenant's servers reaches every session that was promised to hear of it."""

from __future__ import annotations

import asyncio

import orjson
from tests.integration.streams.conftest import Wire

from trunkline.streams.changes import LISTS, Changes
from trunkline.streams.control import Event, ListsChanged, ResourceUpdated, decode
from trunkline.streams.sessions import Owner, new_session_id
from trunkline.streams.subscriber import Subscriber


async def _session(wire: Wire, *lists: str) -> str:
    """A session that was promised to hear of these lists."""
    session = new_session_id()
    await wire.sessions.open(wire.owner, session, b"{}", 1_000)
    record = wire.redis.keys.stream(wire.owner.tenant, session)[0]
    await wire.redis.command("HSET", record, "context", orjson.dumps({"version": "2025-06-18", "lists": lists}))
    return session


async def _heard(wire: Wire, session: str) -> list[str]:
    missed = await wire.sessions.missed(wire.owner.tenant, session, 0)
    assert [each.offset for each in missed] == list(range(1, len(missed) + 1))
    return [orjson.loads(each.body)["method"] for each in missed]


async def test_every_session_hears_of_the_lists_that_it_was_promised(wire: Wire) -> None:
    both, one = await _session(wire, "tools", "prompts"), await _session(wire, "tools")
    none, stranger = await _session(wire), new_session_id()
    await wire.sessions.open(Owner("f" * 32, "key"), stranger, b"{}", 10)

    await Changes(wire.redis).announce(wire.owner.tenant, LISTS)

    assert await _heard(wire, both) == ["notifications/tools/list_changed", "notifications/prompts/list_changed"]
    assert await _heard(wire, one) == ["notifications/tools/list_changed"]
    assert await _heard(wire, none) == []
    assert await wire.sessions.missed("f" * 32, stranger, 0) == []
    assert await wire.sent() == []  # not initialized


async def test_a_thousand_sessions_hear_of_a_change_once_each(wire: Wire) -> None:
    sessions = [await _session(wire, "tools") for _ in range(300)]
    await Changes(wire.redis).announce(wire.owner.tenant, ["tools"])
    assert {len(await _heard(wire, session)) for session in sessions} == {1}


async def test_of_several_who_announce_one_change_one_does(wire: Wire) -> None:
    session = await _session(wire, "tools")
    changes = Changes(wire.redis)
    await asyncio.gather(*(changes.announce(wire.owner.tenant, ["tools"], change="c1") for _ in range(4)))
    await changes.announce(wire.owner.tenant, ["tools"], change="c2")
    assert await _heard(wire, session) == ["notifications/tools/list_changed"] * 2


async def test_subscribers_of_a_resource_hear_of_its_update(wire: Wire) -> None:
    await wire.accept()
    (call,) = await wire.claim()
    changes = Changes(wire.redis)
    other = await _session(wire, "resources")
    assert await changes.subscribe(call, "file:///a")

    await changes.updated(wire.owner.tenant, "file:///a")
    await changes.updated(wire.owner.tenant, "file:///b")
    await changes.unsubscribe(call, "file:///a")
    await changes.updated(wire.owner.tenant, "file:///a")

    assert [orjson.loads(body)["params"] for _, body in await wire.sent()] == [{"uri": "file:///a"}]
    assert await _heard(wire, other) == []


async def test_a_session_subscribes_to_so_many_resources_and_no_more(wire: Wire) -> None:
    await wire.accept()
    (call,) = await wire.claim()
    changes = Changes(wire.redis)
    verdicts = await asyncio.gather(*(changes.subscribe(call, f"x:{number}") for number in range(1_001)))
    assert verdicts.count(False) == 1
    assert await changes.subscribe(call, "x:0")


async def test_a_session_that_has_ended_hears_nothing(wire: Wire) -> None:
    await wire.accept()
    (call,) = await wire.claim()
    changes = Changes(wire.redis)
    await changes.subscribe(call, "x:1")
    await wire.sessions.close(wire.owner, wire.session)
    await changes.updated(wire.owner.tenant, "x:1")
    assert not await changes.subscribe(call, "x:1")
    keys = wire.redis.keys
    assert await wire.redis.command("EXISTS", *keys.stream(wire.owner.tenant, wire.session)) == 0
    assert await wire.redis.command("SCARD", keys.tenant(wire.owner.tenant).subscribers) == 0


async def test_sessions_that_end_are_no_subscribers_any_more(wire: Wire) -> None:
    await wire.accept()
    (call,) = await wire.claim()
    await Changes(wire.redis).subscribe(call, "x:1")
    await wire.sessions.close(wire.owner, wire.session)
    tenant = wire.redis.keys.tenant(wire.owner.tenant)
    assert await wire.redis.command("SISMEMBER", tenant.subscribers, wire.session) == 0


async def test_all_pods_hear_of_changes(wire: Wire) -> None:
    heard: asyncio.Queue[Event | None] = asyncio.Queue()
    ready = asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    subscriber = Subscriber(
        wire.redis, [wire.redis.keys.control], lambda _, payload: heard.put_nowait(decode(payload)), on_ready
    )
    task = asyncio.create_task(subscriber.run())
    changes = Changes(wire.redis)
    async with asyncio.timeout(10):
        await ready.wait()
        await changes.announce(wire.owner.tenant, {"tools", "prompts"})
        await changes.announce_toolset("demo", ["tools"], "c1")
        await changes.updated(wire.owner.tenant, "x:1")
        assert [await heard.get() for _ in range(3)] == [
            ListsChanged(wire.owner.tenant, ["prompts", "tools"]),
            ListsChanged("", ["tools"], "demo", "c1"),
            ResourceUpdated(wire.owner.tenant, "x:1"),
        ]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
