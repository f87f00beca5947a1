"""Clients of streamable HTTP, and what pods hear, for tests of the wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uuid_utils
from tests.integration.streams.conftest import PLENTY, Wire

from trunkline.envelope import Call, Delivery
from trunkline.streams.calls import Message, Opening, Place
from trunkline.streams.client import Redis
from trunkline.streams.sessions import Owner, new_session_id
from trunkline.streams.subscriber import Subscriber


class Channel:
    """What is published to one pod, as it comes."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Delivery] = asyncio.Queue()

    def came(self, payload: bytes) -> None:
        for delivery in Delivery.from_payload(payload)[1]:
            self.heard.put_nowait(delivery)

    async def next(self) -> Delivery:
        async with asyncio.timeout(10):
            return await self.heard.get()


@contextlib.asynccontextmanager
async def listening(redis: Redis, channel: str) -> AsyncIterator[Channel]:
    found, ready = Channel(), asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    subscriber = Subscriber(redis, [channel], lambda _, payload: found.came(payload), on_ready)
    task = asyncio.create_task(subscriber.run())
    async with asyncio.timeout(10):
        await ready.wait()
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Posts:
    """Accepts what a client of streamable HTTP posts."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.owner = Owner(wire.owner.tenant, wire.owner.principal, "http")
        self.pods = wire.redis.keys.tenant(self.owner.tenant).pods

    async def open(self, limit: int = 10) -> tuple[str, str]:
        """Open a session by a request; its id and the call's."""
        session, call = new_session_id(), uuid_utils.uuid7().hex
        place = Place(call, "pod-a", "http", Opening(b'{"of":"caller"}', limit))
        await self.wire.calls.accept(self.owner, Message(call, session, b"0", b"{}", place=place), PLENTY)
        return session, call

    async def post(
        self, session: str, request_id: bytes = b"1", *, stream: str = "", pod: str = "pod-a", several: bool = False
    ) -> str:
        call = uuid_utils.uuid7().hex
        place = Place(stream or call, pod, "http", several=several or bool(stream))
        await self.wire.calls.accept(self.owner, Message(call, session, request_id, b"{}", place=place), PLENTY)
        return call

    async def lone(self, context: bytes = b"") -> str:
        call = uuid_utils.uuid7().hex
        owner = Owner(self.owner.tenant, self.owner.principal, "lone")
        place = Place(call, "pod-a", "modern", Opening(b"{}", 0, context))
        await self.wire.calls.accept(owner, Message(call, call, b"1", b"{}", place=place), PLENTY)
        return call

    async def claimed(self, *calls: str) -> list[Call]:
        found: dict[str, Call] = {}
        async with asyncio.timeout(10):
            while not found.keys() >= set(calls):
                found |= {call.id: call for call in await self.wire.claim()}
        return [found[call] for call in calls]
