"""The tenants, keys and sessions of every kind that fuzzed requests know of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import orjson

from faults.deployment import Account, Rig
from faults.fuzz_case import World, Worlds
from faults.sse import INITIALIZE, Listener, Posts, Refused, message
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants

VERSION = "2025-11-25"
"""Of the sessions on streamable HTTP."""


@contextlib.asynccontextmanager
async def world(rig: Rig, answered: Callable[[str, object], None], lost: list[str]) -> AsyncIterator[Worlds]:
    """Make them; what comes on the streams of HTTP+SSE is told, by session and id of each answer."""
    tenants, keys = Tenants(rig.settings, rig.database, rig.redis), Keys(rig.settings, rig.database, rig.redis)
    demo = rig.accounts["demo"]
    foreign, suspended = await rig.tenant("foreign"), await rig.tenant("suspended")
    public, crowded = await rig.tenant("everyone"), await rig.tenant("crowded")
    reader, _ = await keys.issue("demo", scopes=["mcp:read"])
    other, _ = await keys.issue("demo")
    revoked, record = await keys.issue("demo")
    await keys.revoke(record.id)
    replaced, record = await keys.issue("demo")
    await keys.rotate(record.id, overlap=timedelta(0))
    await tenants.set("everyone", {"access": "public"})
    await tenants.suspend("suspended")
    accounts = {
        "session": demo,
        "spare": demo,
        "reader_session": Account("demo", demo.id, reader),
        "foreign_session": foreign,
        "public_session": Account(public.slug, public.id, ""),
        "crowded_session": crowded,
    }
    streams = _Streams(rig.urls, answered, lost)
    try:
        sse = World(
            slug=demo.slug,
            key=demo.key,
            reader_key=reader,
            other_key=other,
            foreign_slug=foreign.slug,
            foreign_key=foreign.key,
            dead_keys=(revoked, replaced),
            suspended_slug=suspended.slug,
            suspended_key=suspended.key,
            public_slug=public.slug,
            crowded_slug=crowded.slug,
            crowded_key=crowded.key,
            **{name: await streams.open(account, listen=name != "spare") for name, account in accounts.items()},
        )
        sessions = {name: await _session(rig.urls[0], account) for name, account in accounts.items()}
        await tenants.set("crowded", {"rate": "1", "burst": "1", "in_flight": "1"})
        yield Worlds(sse, replace(sse, **sessions))
    finally:
        await streams.close()


async def _session(url: str, account: Account) -> str:
    """A session on streamable HTTP."""
    posts, target = Posts(url), f"/t/{account.slug}/mcp"
    headers = _authorized(account)
    try:
        opened = await posts.post(
            target, message("initialize", {**INITIALIZE, "protocolVersion": VERSION}, 0), headers
        )
        session = opened.headers["mcp-session-id"]
        headers |= {"mcp-session-id": session, "mcp-protocol-version": VERSION}
        await posts.post(target, message("notifications/initialized"), headers)
    finally:
        posts.close()
    return session


def _authorized(account: Account) -> dict[str, str]:
    return {"authorization": f"Bearer {account.key}"} if account.key else {}


class _Streams:
    """The streams of the sessions on HTTP+SSE."""

    def __init__(self, urls: list[str], answered: Callable[[str, object], None], lost: list[str]) -> None:
        self._urls = urls
        self._answered = answered
        self._lost = lost
        self._open: list[tuple[Listener, asyncio.Task[None] | None]] = []

    async def open(self, account: Account, *, listen: bool) -> str:
        headers = _authorized(account)
        url = self._urls[len(self._open) % len(self._urls)]
        stream = await Listener.open(url, f"/t/{account.slug}/sse", headers)
        task = asyncio.create_task(self._listen(stream, url, account.slug, headers)) if listen else None
        self._open.append((stream, task))
        return stream.session

    async def _listen(self, stream: Listener, url: str, slug: str, headers: dict[str, str]) -> None:
        """Tell of answers; a stream that is told to come back does."""
        session, last = stream.session, f"{stream.session}.0"
        while True:
            async for event in stream.events:
                last = event.id or last
                if event.kind != "message":
                    continue
                document = orjson.loads(event.data)
                if "method" not in document:
                    self._answered(session, document.get("id"))
            self._lost.append(f"{slug}: {stream.farewell!r}")
            try:
                stream = await Listener.open(url, f"/t/{slug}/sse", {**headers, "last-event-id": last})
            except Refused as refused:
                self._lost.append(f"{slug}: {refused}")
                return

    async def close(self) -> None:
        """Hang up."""
        for stream, task in self._open:
            stream.close()
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for _, task in self._open if task is not None), return_exceptions=True)
