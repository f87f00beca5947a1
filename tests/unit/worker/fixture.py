"""A client of calls that an executor runs, kept in memory, and a server for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from trunkline.toolsets.changes import Change


@dataclass
class FakeClient:
    """What the worker gives the executor: what went out can be read, and what is asked is answered from `answers`."""

    answers: deque[dict[str, Any] | Exception] = field(default_factory=deque)
    """Responses without their ids, or what happens instead, in the order of the questions."""
    sent: list[dict[str, Any]] = field(default_factory=list)
    progressed: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    limits: list[float | None] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    subscriptions: set[str] = field(default_factory=set)
    most: int = 2

    async def notify(self, message: bytes, *, progress: bool) -> None:
        self.progressed += progress
        self.sent.append(orjson.loads(message))

    async def ask(self, write: Callable[[str], bytes], timeout: float | None) -> bytes:
        question = orjson.loads(write(f"call.1.{len(self.asked) + 1}"))
        self.asked.append(question)
        self.limits.append(timeout)
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return orjson.dumps({"jsonrpc": "2.0", "id": question["id"], **answer})

    async def hang_up(self, *, own: bool = False) -> None:
        self.ended.append("session" if own else "call")

    def announce(self, change: Change) -> None:
        self.changes.append(change)

    async def subscribe(self, uri: str) -> bool:
        if len(self.subscriptions) >= self.most:
            return False
        self.subscriptions.add(uri)
        return True

    async def unsubscribe(self, uri: str) -> None:
        self.subscriptions.discard(uri)
