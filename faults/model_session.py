"""One session as its client sees it, and what the model knows that it must see."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from faults.deployment import Account
from faults.ledger import Answer, Call, Ledger
from faults.sse import INITIALIZE, PATIENCE, Listener, Posts, Refused, message

_tokens = itertools.count(1)


class Mismatch(AssertionError):
    """Something is not as the model has it."""


def _text(answer: Mapping[str, Any]) -> str:
    parts = answer.get("result", {}).get("content", ())
    return "".join(part.get("text", "") for part in parts)


def _calls_tool(tool: str, named: str = "token") -> Callable[[str, int], tuple[str, dict[str, Any]]]:
    def make(token: str, ms: int) -> tuple[str, dict[str, Any]]:
        taking = {"ms": ms} if tool in {"once", "repeatable"} else {}
        return "tools/call", {"name": tool, "arguments": {named: token, **taking}}

    return make


CALLS: Mapping[str, Callable[[str, int], tuple[str, dict[str, Any]]]] = {
    "echo": _calls_tool("echo", "text"),
    "once": _calls_tool("once"),
    "repeatable": _calls_tool("repeatable"),
    "missing": _calls_tool("missing"),
    "ping": lambda token, ms: ("ping", {}),
    "unknown": lambda token, ms: ("no/such", {}),
}
"""What a client may ask, by name: method and params, made of a token and milliseconds."""


@dataclass
class Expected:
    """A call that was accepted."""

    kind: str
    token: str
    endangered: bool = False
    """Whether a worker was killed before its answer came."""
    booked: Call | None = None
    cancelled_before: int = 0
    """The id of a call that was accepted after this one had been taken back; 0 where it was not."""

    def fits(self, answer: Mapping[str, Any]) -> bool:
        """Whether this may be its answer."""
        if self.kind == "ping":
            return answer.get("result") == {}
        if self.kind == "unknown":
            return bool(answer.get("error", {}).get("code") == -32601)
        if self.kind == "missing":
            return "error" in answer or bool(answer["result"].get("isError"))
        if "error" in answer:
            data = answer["error"].get("data") or {}
            return self.kind == "once" and self.endangered and data.get("outcome") == "unknown"
        return _text(answer) == self.token


@dataclass
class Modelled:
    """A session, its client and the model of both."""

    account: Account
    ledger: Ledger
    """The books that the oracles ask: of effects, of audit rows."""
    id: str = ""
    alive: bool = True
    """Whether the session is there; if not, everything about it is 404."""
    calls: dict[int, Expected] = field(default_factory=dict)
    seen: dict[int, bytes] = field(default_factory=dict)
    """Every message that came, by its offset."""
    answers: dict[int, list[int]] = field(default_factory=dict)
    """By JSON-RPC id, the offsets of the answers."""
    gone: int = 0
    """The newest offset of those that are not kept any more."""
    wrong: list[str] = field(default_factory=list)
    farewell: str = ""
    _number: int = 0
    _at: str = ""
    _stream: Listener | None = None
    _reading: asyncio.Task[None] | None = None
    _posts: dict[str, Posts] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def newest(self) -> int:
        """The newest offset that came."""
        return max(self.seen, default=0)

    @property
    def open_calls(self) -> list[int]:
        """Ids of calls without an answer so far that were not taken back."""
        return [
            number
            for number, call in self.calls.items()
            if number not in self.answers and not call.cancelled_before and self.alive
        ]

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way."""
        return (
            self.alive and self._stream is not None and not any(number not in self.answers for number in self.calls)
        )

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.account.key}"}

    def check(self) -> None:
        """Whether everything so far is as it must be.

        Raises:
            Mismatch: with what is not.
        """
        if self.wrong:
            raise Mismatch("; ".join(self.wrong))

    # Steps.

    async def open(self, base: str) -> None:
        """Connect and initialize."""
        stream = await Listener.open(base, f"/t/{self.account.slug}/sse", self._headers)
        self.id = stream.session
        self._listen(stream, base, 0)
        await self._send(base, message("initialize", INITIALIZE, 0))
        await self._until(lambda: 0 in self.answers, "an answer to initialize")
        await self._send(base, message("notifications/initialized"))

    async def post(self, base: str, kind: str, ms: int) -> int:
        """Ask something; its id."""
        self._number += 1
        number, token = self._number, f"token {next(_tokens)}"
        expected = self.calls.setdefault(number, Expected(kind, token))
        method, params = CALLS[kind](token, ms)
        if not await self._send(base, message(method, params, number)):
            del self.calls[number]
        elif method == "tools/call":
            tool, now = params["name"], time.monotonic()
            expected.booked = Call(number, token, method, tool, self.account.slug, self.id, now, "accepted", 202, now)
            self.ledger.calls.append(expected.booked)
        return number

    async def cancel(self, base: str, number: int) -> None:
        """Take a call back; what is accepted afterwards marks from when on it must not be answered."""
        accepted = await self._send(base, message("notifications/cancelled", {"requestId": number}))
        if accepted and number in self.calls:
            self.calls[number].cancelled_before = await self.post(base, "ping", 0)

    async def drop(self) -> None:
        """Lose the stream."""
        if self._stream is not None:
            self._stream.close()
        if self._reading is not None:
            await self._reading

    async def resume(self, base: str, back: int) -> None:
        """Come back, having seen all but the last `back` messages."""
        last = max(self.newest - back, 0)
        before, reading = self._stream, self._reading
        try:
            stream = await self._get(base, f"{self.id}.{last}")
        except Refused as refused:
            if refused.answer.status != 404 or (self.alive and last >= self.gone):
                raise Mismatch(f"a resume from {last} of {self.newest} was answered: {refused}") from refused
            return
        if not self.alive or last < self.gone:
            raise Mismatch(f"a resume from {last} succeeded, where {self.gone} are gone")
        if stream.session != self.id:
            raise Mismatch(f"{self.id} was resumed as {stream.session}")
        self._listen(stream, base, last)
        if before is not None and reading is not None:
            async with asyncio.timeout(PATIENCE):
                await reading
            if "replaced" not in before.farewell:
                self.wrong.append(f"the stream that was replaced ended with {before.farewell!r}")

    async def intrude(self, base: str, stranger: str) -> None:
        """Try what must be 404: another key, or an offset that never was."""
        headers = {"authorization": f"Bearer {stranger}"} if stranger else self._headers
        offset = 0 if stranger else self.newest + len(self.calls) + 1_000
        with contextlib.suppress(Refused):
            stream = await self._get(base, f"{self.id}.{offset}", headers)
            stream.close()
            raise Mismatch(f"a stream was given to whom it must not: {stranger or offset}")
        if stranger:
            answer = await self._at_pod(base).post(self._endpoint, message("ping", None, "x"), headers)
            if answer.status != 404:
                raise Mismatch(f"a stranger's post was answered {answer.status}")

    def expired(self, *, outbox: bool) -> None:
        """Note that time has passed over the session, or over what it was sent."""
        if outbox:
            self.gone = self.newest
        else:
            self.alive = False

    async def closed(self) -> None:
        """Note that the session was ended: its stream must end, and nothing comes any more."""
        self.alive = False
        if self._reading is not None:
            async with asyncio.timeout(PATIENCE):
                await self._reading

    def endangered(self, url: str) -> None:
        """Note that a pod is about to die: a worker, where it has no URL."""
        if not url:
            for number in self.open_calls:
                self.calls[number].endangered = True

    async def settle(self, base: str, seconds: float) -> None:
        """Wait until all is answered, replay all that is kept, and compare."""
        if self.alive:
            await self.resume(base, self.newest - self.gone)
            await self._until(lambda: not self._waiting(), "all answers", seconds + 15)
        else:
            await self.resume(base, 0)
            await self.post(base, "ping", 0)
        self.check()
        self._compare()
        self._book()

    async def leave(self) -> None:
        """Hang up."""
        await self.drop()
        for posts in self._posts.values():
            posts.close()

    # What came.

    def _listen(self, stream: Listener, base: str, last: int) -> None:
        self._stream, self._at = stream, base
        self._reading = asyncio.create_task(self._read(stream, last))

    async def _read(self, stream: Listener, last: int) -> None:
        async for event in stream.events:
            if event.kind != "message":
                self.farewell += f"{event.kind} {event.data.decode()}\n"
                continue
            last += 1
            if event.id != f"{self.id}.{last}":
                self.wrong.append(f"{event.id} came where {self.id}.{last} was due")
                last = event.offset
            self._take(last, event.data)
        if self._stream is stream:
            self._stream = None
            self._changed.set()

    def _take(self, offset: int, data: bytes) -> None:
        if offset in self.seen:
            if self.seen[offset] != data:
                self.wrong.append(f"{offset} was {self.seen[offset]!r} and then {data!r}")
            return
        self.seen[offset] = data
        answer = orjson.loads(data)
        if "method" not in answer:
            self._answered(answer.get("id"), offset, answer)
        self._changed.set()

    def _answered(self, number: object, offset: int, answer: Mapping[str, Any]) -> None:
        if number == 0:
            self.answers[0] = [offset]
        elif not isinstance(number, int) or number not in self.calls:
            self.wrong.append(f"an answer to nothing: {answer}")
        else:
            self.answers.setdefault(number, []).append(offset)
            if not self.calls[number].fits(answer):
                self.wrong.append(f"{self.calls[number]} was answered {answer}")

    def _waiting(self) -> list[int]:
        return [
            number for number, call in self.calls.items() if number not in self.answers and not call.cancelled_before
        ]

    def _compare(self) -> None:
        """Each call once; one that was taken back at most once, and not after what was accepted later."""
        for number, offsets in self.answers.items():
            if len(offsets) > 1:
                raise Mismatch(f"{number} was answered at {offsets}")
            marker = self.calls[number].cancelled_before if number else 0
            if marker and marker in self.answers and offsets[0] > self.answers[marker][0]:
                raise Mismatch(f"{number} was taken back before {marker} was accepted, and answered after it")
        if sorted(self.seen) != list(range(1, self.newest + 1)):
            raise Mismatch(f"offsets are missing: {sorted(self.seen)}")

    def _book(self) -> None:
        for number, call in self.calls.items():
            if call.booked is not None:
                offsets = self.answers.get(number, ())
                call.booked.answers += [Answer.of(orjson.loads(self.seen[offset])) for offset in offsets]
                call.booked.ended = "" if offsets else "taken back, or its session was closed"
                call.booked.done.set()

    # The wire.

    @property
    def _endpoint(self) -> str:
        return f"/t/{self.account.slug}/messages?session_id={self.id}"

    async def _get(self, base: str, last_event_id: str, headers: dict[str, str] | None = None) -> Listener:
        sent = {**(headers or self._headers), "last-event-id": last_event_id}
        return await Listener.open(base, f"/t/{self.account.slug}/sse", sent)

    def _at_pod(self, base: str) -> Posts:
        return self._posts.setdefault(base, Posts(base))

    async def _send(self, base: str, body: bytes) -> bool:
        """Post; whether it was accepted, which it must be while the session lives."""
        answer = await self._at_pod(base).post(self._endpoint, body, self._headers)
        if answer.status != (202 if self.alive else 404):
            raise Mismatch(f"{body[:100]!r} was answered {answer.status}, and the session is {self.alive=}")
        return answer.status == 202

    async def _until(self, holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
                    self.check()
        except TimeoutError:
            raise Mismatch(f"not within {seconds:.0f} s: {what}; {self._waiting()} wait, seen {self.seen}") from None
