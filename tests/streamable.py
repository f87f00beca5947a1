"""A client of streamable HTTP that hides nothing, in both eras: raw requests, raw answers. Every wait is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2
import orjson
from tests.sse import PATIENCE, Event

LATEST = "2025-11-25"
MODERN = "2026-07-28"
BOTH = "application/json, text/event-stream"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def request(number: object, method: str, params: dict[str, Any] | None = None, /) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": method}
    return message if params is None else {**message, "params": params}


def call(number: object, tool: str, meta: dict[str, Any] | None = None, /, **arguments: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    return request(number, "tools/call", params if meta is None else {**params, "_meta": meta})


def modern(message: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """A message with what each stateless request says of its client."""
    params = message.get("params", {})
    return {**message, "params": {**params, "_meta": {**META, **params.get("_meta", {}), **meta}}}


@dataclass
class Answer:
    """What came of one request: its head, and events if it is a stream."""

    response: httpx2.Response
    last_id: str = ""
    _lines: AsyncIterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.response.aiter_lines()

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> httpx2.Headers:
        return self.response.headers

    @property
    def streams(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def event(self) -> Event:
        """The next event, one without data as well; comments are passed over.

        Raises:
            EOFError: the stream has ended; with the last `retry:` it was told.
        """
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                if line.startswith(":"):
                    continue
                if not line:
                    if "data" in fields:
                        break
                    continue
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            else:
                raise EOFError(fields.get("retry", ""))
        self.last_id = fields.get("id", self.last_id)
        return Event(fields.get("event", "message"), fields.get("id", ""), fields["data"], fields.get("retry", ""))

    async def message(self) -> dict[str, Any]:
        """The next message; a priming event is passed over."""
        while True:
            event = await self.event()
            if event.data:
                return event.message

    async def rest(self) -> list[dict[str, Any]]:
        """All messages up to the end, of a stream or of a document."""
        if not self.streams:
            async with asyncio.timeout(PATIENCE):
                document = orjson.loads(await self.response.aread())
            return document if isinstance(document, list) else [document]
        return [event.message for event in await self.events() if event.data]

    async def events(self) -> list[Event]:
        """All events up to the end of the stream."""
        events = []
        while True:
            try:
                events.append(await self.event())
            except EOFError:
                return events

    async def ended(self) -> str:
        """Wait for the end; everything that came before it."""
        async with asyncio.timeout(PATIENCE):
            return "\n".join([line async for line in self._lines])


@dataclass
class Client:
    """One client: where it sends to, with what, and the session it has."""

    base: str
    http: httpx2.AsyncClient
    key: str = ""
    path: str = "/t/demo/mcp"
    version: str = ""
    session: str = ""
    accept: str = BOTH

    def headers(self, **more: str) -> dict[str, str]:
        named = {
            "accept": self.accept,
            "authorization": f"Bearer {self.key}" if self.key else "",
            "mcp-protocol-version": self.version,
            "mcp-session-id": self.session,
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        return {name: value for name, value in named.items() if value}

    @asynccontextmanager
    async def open(
        self, method: str, message: object = None, base: str = "", **headers: str
    ) -> AsyncIterator[Answer]:
        """Send a request; its answer may go on for as long as the context."""
        content = message if isinstance(message, bytes) or message is None else orjson.dumps(message)
        more = {"content_type": "application/json"} if content is not None else {}
        async with self.http.stream(
            method, (base or self.base) + self.path, content=content, headers=self.headers(**{**more, **headers})
        ) as response:
            yield Answer(response)

    async def send(self, method: str, message: object = None, base: str = "", **headers: str) -> httpx2.Response:
        """Send a request and read the whole answer."""
        async with self.open(method, message, base, **headers) as answer:
            await answer.response.aread()
            return answer.response

    async def post(self, message: object, base: str = "", **headers: str) -> list[dict[str, Any]]:
        """POST requests; all messages of the answer."""
        async with self.open("POST", message, base, **headers) as answer:
            assert answer.status == 200, await answer.response.aread()
            return await answer.rest()

    async def ask(self, message: dict[str, Any], base: str = "", **headers: str) -> dict[str, Any]:
        """POST one request; its answer, which must be the last message."""
        *_, answer = await self.post(message, base, **headers)
        assert answer["id"] == message["id"], answer
        return answer

    async def tell(self, message: object, base: str = "", **headers: str) -> None:
        """POST what has no answer."""
        response = await self.send("POST", message, base, **headers)
        assert (response.status_code, response.content) == (202, b""), response.text

    async def initialize(self, version: str = LATEST, base: str = "", **params: Any) -> dict[str, Any]:
        """Open a session, and speak the version that was negotiated from now on."""
        self.session = self.version = ""
        info = {"name": "test", "version": "1"}
        wishes = {"protocolVersion": version, "capabilities": {}, "clientInfo": info, **params}
        async with self.open("POST", request("init", "initialize", wishes), base) as answer:
            (message,) = await answer.rest()
            assert answer.status == 200, message
            self.session = answer.headers.get("mcp-session-id", "")
        if "result" in message:
            self.version = message["result"]["protocolVersion"]
            await self.tell({"jsonrpc": "2.0", "method": "notifications/initialized"}, base)
        return message

    async def call(self, tool: str, base: str = "", **arguments: Any) -> dict[str, Any]:
        """Call a tool of the session; the result, which must be one."""
        answer = await self.ask(call(7, tool, **arguments), base)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def stateless(self, message: dict[str, Any]) -> dict[str, str]:
        """The headers that say again what is in a stateless request."""
        params = message.get("params", {})
        name = params.get("name") or params.get("uri") or ""
        headers = {"mcp_protocol_version": MODERN, "mcp_method": message["method"]}
        return {**headers, "mcp_name": name} if name else headers

    async def modern(self, message: dict[str, Any], base: str = "", **meta: Any) -> dict[str, Any]:
        """Make a stateless request; its answer."""
        full = modern(message, **meta)
        *_, answer = await self.post(full, base, **self.stateless(full))
        assert answer["id"] == message["id"], answer
        return answer

    def other(self, **changes: Any) -> Self:
        """The same client with some things changed."""
        fields = {**self.__dict__, **changes}
        return type(self)(**fields)


@asynccontextmanager
async def client(base: str, **fields: Any) -> AsyncIterator[Client]:
    """A client with connections of its own."""
    timeout = httpx2.Timeout(PATIENCE, read=PATIENCE * 2)
    async with httpx2.AsyncClient(timeout=timeout, trust_env=False) as http:
        yield Client(base, http, **fields)
