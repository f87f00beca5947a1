"""A client of streamable HTTP with sessions (2025-11-25): a POST is answered as JSON, or by a stream of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import orjson

from faults.client import CAPABILITIES, INFO, Client
from faults.cursor import Cursor
from faults.ledger import Call, Resume
from faults.roaming import NoStream
from faults.wire import ENDED, Event, EventStream, Response, get

_VERSION = "2025-11-25"
_INITIALIZE = {"protocolVersion": _VERSION, "capabilities": CAPABILITIES, "clientInfo": INFO}


class HttpClient(Client):
    """One session at a time, and its own stream kept by GET.

    A POST is accepted when its status is there. The stream of one goes on at any pod when it breaks off, with
    `Last-Event-ID`, for as long as its answer has not come; 404 has ended it explicitly. Where not even a status
    came, nothing tells what became of the POST.
    """

    transport = "http"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cursor = Cursor(self.ledger, "")
        """How far the session's own stream has come."""
        self._number = 0

    def _next_id(self) -> int:
        number, self._number = self._number, self._number + 1
        return number

    def _post_head(self, call: Call, url: str) -> bytes:
        return self._head("POST", url, self._target, self._session_headers(call.session))

    @property
    def _target(self) -> str:
        return f"/t/{self._account.slug}/mcp"

    @staticmethod
    def _session_headers(session: str) -> Mapping[str, str]:
        return {"mcp-session-id": session, "mcp-protocol-version": _VERSION} if session else {}

    # What comes of a POST.

    def _accepted(self, call: Call, response: Response) -> None:
        if call.method == "initialize":
            call.session = response.session
        if response.stream is not None:
            self._spawn(self._follow(call, response.stream))
        elif call.number != -1:
            self._take(call, response)
        elif response.status != 202:
            self.ledger.surprises.append(f"POST of {call.method} was answered {response.status}")

    def _take(self, call: Call, response: Response) -> None:
        if response.status == 200:
            self._came(orjson.loads(response.body), call)
        else:
            self.ledger.surprises.append(f"POST of {call.method} was answered {response.status}")

    def _not_found(self, call: Call) -> None:
        if call.session == self.session:
            self._end_session("404")
            self.hang_up()

    async def _follow(self, call: Call, stream: EventStream) -> None:
        """Read the stream of a POST to its end, at other pods where it breaks off before the answer."""
        cursor = Cursor(self.ledger, call.session)
        while True:
            stream.listen(lambda event: self._heard(call, cursor, event))
            await self._watch(stream, call)
            if call.answers:
                return
            if not cursor.last_id:
                self._end_call(call, f"{stream.over.result()} before its first event")
                return
            if stream.over.result() == ENDED and stream.retry is None:
                self.ledger.surprises.append(f"a stream of {call.method} ended without an answer, and no retry:")
            found = await self._continue(call, cursor, stream.retry or 0)
            if found is None:
                self._end_call(call, "404")
                return
            stream = found

    def _heard(self, call: Call, cursor: Cursor, event: Event) -> None:
        if cursor.takes(event):
            self._came(orjson.loads(event.data), call)

    async def _continue(self, call: Call, cursor: Cursor, pause: float) -> EventStream | None:
        await asyncio.sleep(pause)
        lost_at = time.monotonic()

        async def ask(url: str) -> Response:
            headers = {**self._session_headers(call.session), "last-event-id": cursor.last_id}
            return await get(url, self._head("GET", url, self._target, headers))

        try:
            found = await self._find(ask)
        except NoStream:
            return None
        if found is None:
            return None
        self.ledger.continued.append(Resume(time.monotonic() - lost_at, found.tries))
        return found.stream

    # The session and its own stream.

    async def _prepare(self) -> None:
        while not self.session:
            call = await self.request("initialize", _INITIALIZE)
            await self.settled(call)
            if call.outcome == "result":
                await self._begin_session(call.session)
            elif call.fate == "accepted" and not call.ended:
                self.ledger.surprises.append(f"initialize was answered: {call.outcome}")

    async def _begin_session(self, session: str) -> None:
        if not session:
            self.ledger.surprises.append("initialize was answered without a session")
        self.session, self.cursor, self._number = session, Cursor(self.ledger, session), 1
        self.ledger.sessions += 1
        while self.session == session and not await self.notify("notifications/initialized"):
            pass
        if self.session == session:
            self.ready.set()

    async def _ask_for_stream(self, url: str) -> Response:
        if not self.session:
            return Response(404, {})  # it has ended meanwhile
        seen = {"last-event-id": self.cursor.last_id} if self.cursor.last_id else {}
        return await get(url, self._head("GET", url, self._target, {**self._session_headers(self.session), **seen}))

    def _begin(self, stream: EventStream) -> bool:
        cursor = self.cursor
        stream.listen(lambda event: self._heard_aside(cursor, event))
        if not self.session:
            stream.close()  # it has ended meanwhile
        return bool(cursor.last_id)

    def _heard_aside(self, cursor: Cursor, event: Event) -> None:
        if cursor.takes(event):
            self._came(orjson.loads(event.data), None)

    def _over(self, *, found: bool) -> None:
        if not found:
            self._end_session("404")

    def _end_session(self, reason: str) -> None:
        """Open a new one; what is under way in this one ends by itself: with its stream, or a resume of that."""
        if self.session:
            self.ledger.ends[reason] += 1
        self.ready.clear()
        self.session, self._number = "", 0
