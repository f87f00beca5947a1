"""A client of the HTTP+SSE transport that hides nothing: raw requests, raw events. Every wait is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urljoin

import httpx2
import orjson

PATIENCE = 15.0
"""Seconds that a test waits for something that should come at once."""

INITIALIZE: dict[str, Any] = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    kind: str
    id: str
    data: str
    retry: str = ""

    @property
    def message(self) -> dict[str, Any]:
        return orjson.loads(self.data)


class Stream:
    """An open stream, its session, and posts to it."""

    def __init__(
        self, base: str, http: httpx2.AsyncClient, response: httpx2.Response, headers: dict[str, str]
    ) -> None:
        self.base = base
        self.http = http
        self.response = response
        self.headers = headers
        self.endpoint = ""
        self.last_id = ""
        self._lines = response.aiter_lines()
        self._number = -1

    @property
    def session(self) -> str:
        return self.endpoint.partition("session_id=")[2]

    async def begin(self) -> Self:
        event = await self.event()
        assert event.kind == "endpoint", event
        self.endpoint = event.data
        return self

    async def event(self) -> Event:
        """The next event; comments are passed over."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                if line.startswith(":"):
                    continue
                if not line:
                    if fields.keys() - {"retry"}:
                        break
                    continue
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            else:
                raise EOFError(fields.get("retry", "the stream ended"))
        self.last_id = fields.get("id", self.last_id)
        return Event(fields.get("event", "message"), fields.get("id", ""), fields["data"], fields.get("retry", ""))

    async def ended(self) -> str:
        """Wait for the stream's end; everything that came before it."""
        async with asyncio.timeout(PATIENCE):
            return "\n".join([line async for line in self._lines])

    async def post(self, message: object, **options: Any) -> httpx2.Response:
        """POST one message to the endpoint."""
        body = message if isinstance(message, bytes) else orjson.dumps(message)
        headers = {"content-type": "application/json", **self.headers, **options.pop("headers", {})}
        base = options.pop("base", self.base)
        return await self.http.post(urljoin(base, self.endpoint), content=body, headers=headers, **options)

    async def send(self, method: str, params: dict[str, Any] | None = None, **options: Any) -> int:
        """POST a request with the next id, counted from 0; it must be accepted."""
        self._number += 1
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._number, "method": method}
        if params is not None:
            message["params"] = params
        response = await self.post(message, **options)
        assert (response.status_code, response.text) == (202, "Accepted"), response.text
        return self._number

    async def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        response = await self.post(message)
        assert response.status_code == 202, response.text

    async def answer(self, request_id: int) -> dict[str, Any]:
        """The answer to a request, which must be the next one on the stream but for notifications."""
        while True:
            message = (await self.event()).message
            if "id" in message:
                assert message["id"] == request_id, message
                return message

    async def request(self, method: str, params: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return await self.answer(await self.send(method, params, **options))

    async def initialize(self, **changes: Any) -> dict[str, Any]:
        answer = await self.request("initialize", {**INITIALIZE, **changes})
        await self.notify("notifications/initialized")
        return answer

    async def call(self, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Call a tool; the result, which must be one."""
        answer = await self.request("tools/call", {"name": tool, "arguments": arguments or {}}, **options)
        assert "result" in answer, answer
        return answer["result"]


def text_of(result: dict[str, Any]) -> str:
    """The text of a tool's result."""
    return "".join(part.get("text", "") for part in result["content"])


@asynccontextmanager
async def connect(
    base: str, path: str = "/t/demo/sse", *, key: str = "", last_event_id: str = "", **headers: str
) -> AsyncIterator[Stream]:
    """Open a stream at `base` and read its endpoint event."""
    sent = {**headers}
    if key:
        sent["authorization"] = f"Bearer {key}"
    timeout = httpx2.Timeout(PATIENCE, read=PATIENCE * 2)
    async with httpx2.AsyncClient(timeout=timeout, trust_env=False) as http:
        resume = {"last-event-id": last_event_id} if last_event_id else {}
        async with http.stream("GET", base + path, headers={**sent, **resume}) as response:
            if response.status_code != 200:
                await response.aread()
                raise ConnectionRefusedError(response.status_code, response.text)
            yield await Stream(base, http, response, sent).begin()
