"""Requests that were accepted, and that Redis has forgotten: answered once, and no others."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from tests.integration.streams.conftest import Wire

from trunkline.streams import vanished

PATIENCE = 10.0


async def forget(wire: Wire, call: str) -> None:
    """As a replica that takes over and had not heard of a call."""
    tenant = wire.redis.keys.tenant(wire.owner.tenant)
    session = wire.redis.keys.stream(wire.owner.tenant, wire.session)[0]
    await wire.redis.command("HDEL", session, f"p:{call}")
    await wire.redis.command("ZREM", tenant.deadlines, f"{wire.owner.tenant}:{wire.session}:{call}")
    await wire.redis.command("DEL", tenant.calls)


async def looked_after(wire: Wire) -> list[tuple[int, bytes]]:
    """The outbox after Redis was reached again, with whatever was answered by that."""
    await wire.calls.vanished._answer_all(wire.calls.vanished._remembered())
    return await wire.sent()


async def test_it_is_looked_for_when_redis_is_reached_again(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vanished, "_AFTER", 0.0)
    await forget(wire, await wire.accept())
    answering = asyncio.create_task(wire.calls.vanished.run())
    wire.calls.vanished.look()
    async with asyncio.timeout(PATIENCE):
        while not await wire.sent():
            pass
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)


async def test_what_was_forgotten_is_answered_as_unknown_and_once(wire: Wire) -> None:
    lost = await wire.accept(request_id=b'"lost"')
    await wire.accept(request_id=b"2")
    await forget(wire, lost)
    for _ in range(2):
        ((offset, body),) = await looked_after(wire)
        assert (offset, orjson.loads(body)["id"]) == (1, "lost")
        assert orjson.loads(body)["error"]["data"] == {"outcome": "unknown"}


async def test_what_was_answered_is_not_answered_again(wire: Wire) -> None:
    await wire.accept()
    (call,) = await wire.claim()
    await wire.outbox.publish(call, b'{"result":1}', "ok")
    assert await looked_after(wire) == [(1, b'{"result":1}')]


async def test_where_the_outbox_has_lost_its_beginning_nobody_knows_and_nothing_is_said(wire: Wire) -> None:
    await wire.accept()
    (call,) = await wire.claim()
    await wire.outbox.publish(call, b'{"result":1}', "ok")
    for number in range(25):  # more than this outbox keeps
        await wire.accept(request_id=b"%d" % number)
    claimed = await wire.claim()
    await asyncio.gather(*(wire.outbox.publish(each, b"{}", "ok") for each in claimed))
    before = await wire.sent()
    assert before[0][0] > 1
    assert await looked_after(wire) == before


async def test_what_its_client_took_back_gets_no_answer(wire: Wire) -> None:
    await wire.accept()
    for call in await wire.calls.cancel(wire.owner, wire.session, b"1"):
        wire.calls.vanished.forget(call)
    assert await looked_after(wire) == []


async def test_a_session_that_has_ended_gets_nothing(wire: Wire) -> None:
    lost = await wire.accept()
    await forget(wire, lost)
    await wire.sessions.close(wire.owner, wire.session)
    assert await looked_after(wire) == []
