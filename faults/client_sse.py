"""A client of the HTTP+SSE transport (2024-11-05): one stream for everything, and POSTs that are answered 202."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from faults.client import CAPABILITIES, INFO, Client
from faults.cursor import Cursor
from faults.ledger import Call
from faults.wire import Event, EventStream, Response, get

_INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": CAPABILITIES, "clientInfo": INFO}


class SseClient(Client):
    """One session at a time. A stream that was lost is resumed with `Last-Event-ID`; 404 has ended the session."""

    transport = "sse"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cursor = Cursor(self.ledger, "")
        """How far the session's stream has come."""
        self._open_calls: dict[object, Call] = {}
        self._number = 0
        self._ended = ""
        self._endpoint = ""

    def _next_id(self) -> int:
        number, self._number = self._number, self._number + 1
        return number

    async def _compose(self, method: str, params: Mapping[str, Any], token: str = "") -> tuple[Call, bytes]:
        call, body = await super()._compose(method, params, token)
        self._open_calls[call.number] = call
        return call, body

    def _post_head(self, call: Call, url: str) -> bytes:
        return self._head("POST", url, self._endpoint, {})

    def _accepted(self, call: Call, response: Response) -> None:
        if response.status != 202:
            self.ledger.surprises.append(f"POST of {call.method} was answered {response.status}")
        self._check_ended(call)

    def _unknowable(self, call: Call) -> None:
        self._check_ended(call)  # if it was not, the stream tells whether it was accepted

    def _check_ended(self, call: Call) -> None:
        if call.session != self.session and not call.answers:
            self._end_call(call, "404")  # its session ended while the response was on its way

    # The stream.

    async def _prepare(self) -> None:
        """A session comes with its stream."""

    async def _ask_for_stream(self, url: str) -> Response:
        seen = {"last-event-id": self.cursor.last_id} if self.cursor.last_id else {}
        return await get(url, self._head("GET", url, f"/t/{self._account.slug}/sse", seen))

    def _begin(self, stream: EventStream) -> bool:
        goes_on = bool(self.session)
        stream.listen(self._event)
        return goes_on

    def _over(self, *, found: bool) -> None:
        if found and self._ended:
            self._end_session(self._ended)
        elif not found and self.session:
            self._end_session("404")
        elif not found:
            self.ledger.surprises.append("a new stream was answered 404")

    def _event(self, event: Event) -> None:
        if event.kind == "end":
            self._ended = event.data.decode()
        elif event.kind == "endpoint":
            self._connected_to(event)
        elif self.cursor.takes(event):
            message = orjson.loads(event.data)
            self._came(message, self._open_calls.get(message.get("id")))

    def _connected_to(self, event: Event) -> None:
        endpoint = event.data.decode()
        session = endpoint.partition("session_id=")[2]
        if self.session:
            if session != self.session:
                self.ledger.breaks.append(f"the stream of {self.session} was resumed as {session}")
            return
        self.session, self._endpoint, self._ended = session, endpoint, ""
        self.cursor = Cursor(self.ledger, session, event.id)
        self.ledger.sessions += 1
        self._spawn(self._initialize())

    async def _initialize(self) -> None:
        while True:
            call = await self.request("initialize", _INITIALIZE)
            await self.settled(call)
            if call.session != self.session:
                return  # the next session has a task of its own
            if call.outcome == "result" and await self.notify("notifications/initialized"):
                self.ready.set()
                return
            if call.outcome != "result" and call.fate == "accepted":
                self.ledger.surprises.append(f"initialize was answered: {call.outcome}")

    def _end_session(self, reason: str) -> None:
        self.ledger.ends[reason] += 1
        self.ready.clear()
        open_calls, self._open_calls = self._open_calls, {}
        self.session, self._ended, self._number = "", "", 0
        self.cursor = Cursor(self.ledger, "")
        for call in open_calls.values():
            if not call.answers and call.fate in ("accepted", "unknown"):
                self._end_call(call, reason)
