"""Calls over streamable HTTP, always two alike: one in a session and one without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from tests.streamable import Client, call, client, modern


class Posts:
    """Two callers."""

    def __init__(self, user: Client) -> None:
        self._user = user
        self._stateless = user.other(version="", session="")
        self._held: list[asyncio.Task[dict[str, Any]]] = []

    def hold(self, tool: str, **arguments: object) -> None:
        """Call something that takes its time."""
        message = call(1, tool, **arguments)
        self._held = [asyncio.create_task(ask(message)) for ask in (self._user.ask, self._stateless.modern)]

    async def texts(self) -> list[str]:
        """What came of it."""
        return [answer["result"]["content"][0]["text"] for answer in await self.answers()]

    async def answers(self) -> list[dict[str, Any]]:
        """The answers as they came."""
        return await asyncio.gather(*self._held)

    async def send(self, tool: str, **arguments: object) -> list[httpx2.Response]:
        """Call something, whatever is answered."""
        message = modern(call(2, tool, **arguments))
        headers = self._stateless.stateless(message)
        return await asyncio.gather(
            self._user.send("POST", message), self._stateless.send("POST", message, **headers)
        )

    async def aclose(self) -> None:
        for task in self._held:
            task.cancel()
        await asyncio.gather(*self._held, return_exceptions=True)


@asynccontextmanager
async def posting(api: str, key: str) -> AsyncIterator[Posts]:
    """Two callers at one pod, until the end of the block."""
    async with client(api, key=key) as user:
        await user.initialize()
        made = Posts(user)
        try:
            yield made
        finally:
            await made.aclose()
