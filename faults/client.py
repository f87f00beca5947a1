"""A client of the HTTP+SSE transport that outlives its stream, tries other pods, and keeps books of everything."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from faults.ledger import Answer, Call, Ledger, Resume
from faults.pods import ScenarioError
from faults.wire import Event, EventStream, Head, NoResponse, NotSent, Pool

LATE = 15.0
"""Seconds beyond its time within which every accepted call must be answered."""
_INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "faults", "version": "1"}}
_PATIENCE = 120.0
"""Seconds for which a client tries to get a stream, or a message accepted, before it gives up."""
_LONGEST_PAUSE = 5.0
_WATCH = 2.0


class Credentials(Protocol):
    """What a client needs of a tenant."""

    @property
    def slug(self) -> str:
        """The tenant's name in URLs."""

    @property
    def key(self) -> str:
        """An API key."""


class Client:
    """One session at a time, over any of `urls`.

    The stream is opened at one of them and comes back to the next when it is lost, with `Last-Event-ID` and after
    the `retry:` that it was told. Each POST goes to the next of `urls`; to yet another where the first was refused.
    A resume that is answered 404 has ended the session explicitly: its open calls are booked as ended, and the
    client goes on with a new session.

    Args:
        ledger: Where everything is booked.
        account: Whose calls they are.
        urls: Where the deployment is reached; the list may change while the client runs.
        chance: For tokens and pauses.
        pool: Connections for POSTs.
        call_timeout: Seconds that the deployment gives a call.
        uncertain: Those of `urls` behind which a 502, 503 or 504 may mean that a message was accepted: proxies.
        stall: Seconds without a byte after which a stream is given up.
    """

    def __init__(
        self,
        ledger: Ledger,
        account: Credentials,
        urls: Sequence[str],
        chance: random.Random,
        pool: Pool,
        *,
        call_timeout: float = 60.0,
        uncertain: frozenset[str] = frozenset(),
        stall: float = 40.0,
    ) -> None:
        self.ledger = ledger
        self.urls = urls
        self.session = ""
        """The id of the session; empty before there is one."""
        self.offset = 0
        """Of the last event that came."""
        self.at = ""
        """The one of `urls` that holds the stream; empty while none does."""
        self.notifications: list[dict[str, Any]] = []
        self.ready = asyncio.Event()
        """Set while there is an initialized session."""
        self._account = account
        self._chance = chance
        self._pool = pool
        self._call_timeout = call_timeout
        self._uncertain = uncertain
        self._stall = stall
        self._last_id = ""
        self._post_head = b""
        self._open_calls: dict[int, Call] = {}
        self._number = 0
        self._posted = chance.randrange(len(urls))
        self._connected = 0
        self._stream: EventStream | None = None
        self._ended = ""
        self._keeping: asyncio.Task[None] | None = None
        self._initializing: asyncio.Task[None] | None = None

    # What scenarios ask of it.

    async def open(self) -> None:
        """Open a session and wait until it is initialized."""
        self._keeping = asyncio.create_task(self._keep())
        ready = asyncio.create_task(self.ready.wait())
        await asyncio.wait({ready, self._keeping}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self.ready.is_set():
            self.ledger.surprises.append("a session could not be opened")

    async def close(self) -> None:
        """Hang up; the session stays until it expires."""
        tasks = [task for task in (self._keeping, self._initializing) if task is not None]
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if self._stream is not None:
            self._stream.close()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def hang_up(self) -> None:
        """Lose the stream, as a bad network does; the client comes back by itself."""
        if self._stream is not None:
            self._stream.close()

    async def call(self, tool: str, **arguments: object) -> Call:
        """Call a tool with a token of its own and wait for the answer, at most until it is overdue."""
        call = await self.send(tool, **arguments)
        await self.settled(call)
        return call

    async def send(self, tool: str, **arguments: object) -> Call:
        """Call a tool with a token of its own; returns when it is known what became of the POST."""
        token = f"{self._chance.getrandbits(80):020x}"
        name = "text" if tool == "echo" else "token"
        return await self.request("tools/call", {"name": tool, "arguments": {name: token, **arguments}}, token)

    async def settled(self, call: Call) -> None:
        """Wait until a call is answered or never will be, and at most until it is overdue."""
        if call.fate in ("accepted", "unknown"):
            left = call.sent_at + self._call_timeout + LATE - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0) if call.fate == "accepted" else 0.5):
                    await call.done.wait()

    async def request(self, method: str, params: Mapping[str, Any], token: str = "") -> Call:
        """Send any request in the session that is open or about to be.

        Raises:
            ScenarioError: there was none for two minutes.
        """
        if method != "initialize":
            await self._until_ready()
        number, self._number = self._number, self._number + 1
        call = Call(
            number, token, method, str(params.get("name", "")), self._account.slug, self.session, time.monotonic()
        )
        self.ledger.calls.append(call)
        self._open_calls[number] = call
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        await self._post(call, orjson.dumps(message))
        return call

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.ready.wait()
        except TimeoutError as error:
            raise ScenarioError("A client had no session for two minutes.") from error

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> bool:
        """Send a notification; whether it was accepted."""
        message = {"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {})}
        call = Call(-1, "", method, "", self._account.slug, self.session, time.monotonic())
        await self._post(call, orjson.dumps(message))
        return call.fate == "accepted"

    # POSTs.

    async def _post(self, call: Call, body: bytes) -> None:
        give_up, tried = time.monotonic() + _PATIENCE, 0
        while call.fate == "sent":
            tried += 1
            self._posted += 1
            url = self.urls[self._posted % len(self.urls)]
            pause = await self._try_post(call, url, body)
            if call.fate != "sent":
                break
            if call.session != self.session or time.monotonic() > give_up:
                call.fate = "refused"
            else:
                # The others are tried at once, after all of them have refused it is time to wait.
                await asyncio.sleep(pause if tried % len(self.urls) == 0 or call.status == 429 else 0.01)
        if call.fate == "refused":
            call.done.set()

    async def _try_post(self, call: Call, url: str, body: bytes) -> float:
        """One try, booked; seconds after which another makes sense, where `call.fate` stays `sent`."""
        try:
            head = await self._pool.post(url, self._post_head, body)
        except NotSent:
            self.ledger.refusals["POST, nobody there"] += 1
            return 0.1
        except NoResponse:
            self._book(call, "unknown", 0)
            return 0
        self._judge(call, head, uncertain=url in self._uncertain)
        return self._pause(head)

    def _judge(self, call: Call, head: Head, *, uncertain: bool) -> None:
        call.status = head.status
        if head.status == 202:
            self._book(call, "accepted", 202)
            return
        self.ledger.refusals[f"POST {head.status}"] += 1
        if head.status >= 500 and uncertain:
            self._book(call, "unknown", head.status)
        elif head.status == 404:
            self._book(call, "refused", 404)
        elif head.status not in (429, 503):
            self._book(call, "refused", head.status)
            self.ledger.surprises.append(f"POST of {call.method} was answered {head.status}")
        elif not head.retry_after:
            self.ledger.surprises.append(f"{head.status} came without Retry-After")

    def _book(self, call: Call, fate: str, status: int) -> None:
        call.fate = fate  # type: ignore[assignment]
        call.status = status
        call.accepted_at = time.monotonic()
        if fate != "refused" and call.session != self.session and not call.answers:
            self._end_call(call)  # its session ended while the response was on its way

    def _pause(self, head: Head) -> float:
        return min(head.retry_after or 0.1, _LONGEST_PAUSE) * self._chance.uniform(0.5, 1.0)

    # The stream.

    async def _keep(self) -> None:
        lost_at: float | None = None
        while True:
            found = await self._connect()
            if found is None:
                self.ledger.surprises.append("no stream could be had for two minutes")
                return
            self._stream, tries = found
            if lost_at is not None and self._last_id:
                self.ledger.resumes.append(Resume(time.monotonic() - lost_at, tries))
            await self._watch(self._stream)
            self.at = ""
            lost_at = time.monotonic()
            if self._ended:
                self._end_session(self._ended)
            if self._stream.retry is not None:
                await asyncio.sleep(self._stream.retry)
                lost_at = time.monotonic()

    async def _watch(self, stream: EventStream) -> None:
        clock = asyncio.get_running_loop().time
        while not stream.over.done():
            await asyncio.wait({stream.over}, timeout=_WATCH)
            if clock() - stream.heard_at > self._stall:
                self.ledger.refusals["stream given up, nothing came"] += 1
                stream.close()
                await stream.over

    async def _connect(self) -> tuple[EventStream, int] | None:
        """The stream, and how many tries it took; None where none is to be had."""
        give_up, tries = time.monotonic() + _PATIENCE, 0
        while time.monotonic() < give_up:
            tries += 1
            self._connected += 1
            url = self.urls[self._connected % len(self.urls)]
            try:
                head, stream = await EventStream.open(url, self._get_head(url), self._event)
            except (NotSent, NoResponse):
                self.ledger.refusals["GET, nobody there"] += 1
                await asyncio.sleep(0.1 if tries % len(self.urls) == 0 else 0.01)
                continue
            if head.status == 200:
                self.at = url
                return stream, tries
            stream.close()
            self.ledger.refusals[f"GET {head.status}"] += 1
            if head.status == 404 and self._last_id:
                self._end_session("404")
            elif head.status in (429, 502, 503, 504):
                await asyncio.sleep(self._pause(head) if tries % len(self.urls) == 0 else 0.02)
            else:
                self.ledger.surprises.append(f"GET was answered {head.status}")
                await asyncio.sleep(1)
        return None

    def _get_head(self, url: str) -> bytes:
        resume = f"last-event-id: {self._last_id}\r\n" if self._last_id else ""
        return (
            f"GET /t/{self._account.slug}/sse HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n"
            f"authorization: Bearer {self._account.key}\r\naccept: text/event-stream\r\n{resume}"
        ).encode()

    def _event(self, event: Event) -> None:
        if event.kind == "end":
            self._ended = event.data.decode()
        elif event.kind == "endpoint":
            self._begin(event)
        elif self._is_next(event):
            self._last_id = event.id
            message = orjson.loads(event.data)
            if "method" in message:
                self.notifications.append(message)
            else:
                self._answer(message)

    def _begin(self, event: Event) -> None:
        endpoint = event.data.decode()
        session = endpoint.partition("session_id=")[2]
        if self.session:
            if session != self.session:
                self.ledger.breaks.append(f"the stream of {self.session} was resumed as {session}")
            return
        self.session, self.offset, self._last_id, self._ended = session, 0, event.id, ""
        self._post_head = (
            f"POST {endpoint} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {self._account.key}\r\n"
            "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
        ).encode()
        self.ledger.sessions += 1
        self._initializing = asyncio.create_task(self._initialize())

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

    def _is_next(self, event: Event) -> bool:
        """Whether an event is the one after the last; anything else is booked."""
        session, _, offset = event.id.partition(".")
        if session != self.session:
            self.ledger.breaks.append(f"an event of {session} came in {self.session}")
            return False
        if offset == "lost":  # the pod answers for a Redis that is gone; no stream is resumed from there
            return True
        if int(offset) != self.offset + 1:
            self.ledger.breaks.append(f"event {offset} came after event {self.offset} of {session}")
            if int(offset) <= self.offset:
                return False
        self.offset = int(offset)
        return True

    def _answer(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        call = self._open_calls.get(number) if isinstance(number, int) else None
        answer = Answer.of(message)
        if call is None or (call.token and not answer.code and call.token != answer.text):
            self.ledger.foreign.append(f"{orjson.dumps(message)[:200]!r} in {self.session}")
            return
        call.answers.append(answer)
        call.done.set()

    def _end_session(self, reason: str) -> None:
        self.ledger.ends[reason] += 1
        self.ready.clear()
        open_calls, self._open_calls = self._open_calls, {}
        self.session, self._last_id, self._ended, self.offset, self._number = "", "", "", 0, 0
        for call in open_calls.values():
            if not call.answers and call.fate in ("accepted", "unknown"):
                self._end_call(call, reason)

    def _end_call(self, call: Call, reason: str = "404") -> None:
        call.ended = reason
        call.done.set()
