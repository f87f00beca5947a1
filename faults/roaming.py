"""What a client does to be heard by whichever pod there is: heads of requests, pauses, streams that move."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from faults.ledger import Call, Ledger
from faults.wire import EventStream, NoResponse, NotSent, Response

PATIENCE = 120.0
"""Seconds for which a client tries to get a stream, or a message accepted, before it gives up."""
_LONGEST_PAUSE = 5.0
_WATCH = 2.0
_FAREWELL = 10.0
"""Seconds after its answer within which the stream of a POST must end."""


class Credentials(Protocol):
    """What a client needs of a tenant."""

    @property
    def slug(self) -> str:
        """The tenant's name in URLs."""

    @property
    def key(self) -> str:
        """An API key."""


class Found(NamedTuple):
    """A stream that was had."""

    stream: EventStream
    url: str
    tries: int


class NoStream(Exception):
    """None was to be had, from any pod, for two minutes."""


class Roaming:
    """A caller that is bound to no pod: each request goes to the next of `urls`."""

    def __init__(
        self, ledger: Ledger, account: Credentials, urls: Sequence[str], chance: random.Random, stall: float
    ) -> None:
        self.ledger = ledger
        self.urls = urls
        self._account = account
        self._chance = chance
        self._stall = stall
        self._posted = chance.randrange(len(urls))
        self._connected = 0

    def _next_url(self) -> str:
        self._posted += 1
        return self.urls[self._posted % len(self.urls)]

    def _pause(self, response: Response) -> float:
        return min(response.retry_after or 0.1, _LONGEST_PAUSE) * self._chance.uniform(0.5, 1.0)

    def _head(self, method: str, url: str, target: str, headers: Mapping[str, str]) -> bytes:
        """The head of a request, without the last empty line; of a POST without the length."""
        accept = "text/event-stream" if method == "GET" else "application/json, text/event-stream"
        lines = [f"{method} {target} HTTP/1.1", f"host: {urlsplit(url).netloc}"]
        lines += [f"authorization: Bearer {self._account.key}", f"accept: {accept}"]
        lines += ["content-type: application/json"] if method == "POST" else []
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join((*lines, "")).encode()

    async def _find(self, ask: Callable[[str], Awaitable[Response]]) -> Found | None:
        """A stream, from whichever pod has it; None where one says 404.

        Raises:
            NoStream: none had it for two minutes, which is booked.
        """
        give_up, tries = time.monotonic() + PATIENCE, 0
        while time.monotonic() < give_up:
            tries += 1
            self._connected += 1
            url = self.urls[self._connected % len(self.urls)]
            all_tried = tries % len(self.urls) == 0
            try:
                response = await ask(url)
            except (NotSent, NoResponse):
                self.ledger.refusals["GET, nobody there"] += 1
                await asyncio.sleep(0.1 if all_tried else 0.01)
                continue
            if response.stream is not None:
                return Found(response.stream, url, tries)
            self.ledger.refusals[f"GET {response.status}"] += 1
            if response.status == 404:
                return None
            if response.status in (429, 502, 503, 504):
                await asyncio.sleep(self._pause(response) if all_tried else 0.02)
            else:
                self.ledger.surprises.append(f"GET was answered {response.status} {response.body[:200]!r}")
                await asyncio.sleep(1)
        self.ledger.surprises.append("no stream could be had for two minutes")
        raise NoStream

    async def _watch(self, stream: EventStream, answers: Call | None = None) -> None:
        """Wait until a stream is over; give it up if nothing comes, or if it goes on though its call is answered."""
        clock = asyncio.get_running_loop().time
        while not stream.over.done():
            await asyncio.wait({stream.over}, timeout=_WATCH)
            reason = "nothing came" if clock() - stream.heard_at > self._stall else ""
            if answers is not None and answers.answer and time.monotonic() - answers.answer.at > _FAREWELL:
                reason = "answered"
                self.ledger.surprises.append(f"the stream of {answers.method} did not end after its answer")
            if reason and not stream.over.done():
                self.ledger.refusals[f"stream given up, {reason}"] += 1
                stream.close()
                await stream.over
