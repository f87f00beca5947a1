"""The books that clients keep: of each call what was sent, accepted and received, and what should not have been."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Fate = Literal["sent", "accepted", "refused", "unknown"]
"""What became of the POST. `refused`: certainly not accepted. `unknown`: the connection broke without a response."""
Transport = Literal["sse", "http", "modern"]
"""HTTP+SSE (2024-11-05); streamable HTTP with sessions (2025-03-26 to 2025-11-25); stateless (2026-07-28)."""
TRANSPORTS: tuple[Transport, ...] = ("sse", "http", "modern")


@dataclass(frozen=True, slots=True)
class Answer:
    """One terminal answer, as it came."""

    at: float
    text: str
    """Of a result its text, of an error its message."""
    code: int = 0
    """JSON-RPC error code; 0 for a result."""
    outcome: str = ""
    """`data.outcome` of an error: unknown, parked, not_started."""
    asks: Mapping[str, Any] | None = None
    """The result where it is none yet, but asks the client first (2026-07-28: `input_required`)."""

    @classmethod
    def of(cls, message: dict[str, Any]) -> Answer:
        """Read a JSON-RPC response."""
        now = time.monotonic()
        if error := message.get("error"):
            data = error.get("data")
            outcome = str(data.get("outcome", "")) if isinstance(data, dict) else ""
            return cls(now, str(error.get("message", "")), int(error.get("code", -1)), outcome)
        result = message.get("result")
        if not isinstance(result, dict):
            return cls(now, "")
        if result.get("resultType") == "input_required":
            return cls(now, "", asks=result)
        parts = result.get("content", ())
        return cls(now, "".join(part.get("text", "") for part in parts))

    @property
    def kind(self) -> str:
        """`result`, `asks`, the outcome that an error tells, or `error <code>`."""
        if self.asks is not None:
            return "asks"
        return self.outcome or (f"error {self.code}" if self.code else "result")


@dataclass(slots=True)
class Call:
    """One request of a client."""

    number: int | str
    """The JSON-RPC id; every session counts from 0. Stateless ones are text that no other client has."""
    token: str
    """Unique among all calls; in the arguments and so in a tool's text."""
    method: str
    tool: str
    slug: str
    session: str
    sent_at: float
    fate: Fate = "sent"
    status: int = 0
    """Of the last response to its POST; 0 where there was none."""
    accepted_at: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    ended: str = ""
    """Why no answer can come any more: its session ended, or its stream, which cannot be resumed; empty otherwise."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the first answer, or when none will come."""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is known what became of the POST."""
    transport: Transport = "sse"

    @property
    def answer(self) -> Answer | None:
        """The first answer."""
        return self.answers[0] if self.answers else None

    @property
    def outcome(self) -> str:
        """In one word: the answer's kind, or `ended`, or what became of the POST."""
        if self.answers:
            return self.answers[0].kind
        return "ended" if self.ended and self.fate != "refused" else self.fate

    @property
    def took(self) -> float:
        """Seconds from the first byte sent to the first answer; infinite without one."""
        return self.answers[0].at - self.sent_at if self.answers else float("inf")


@dataclass(frozen=True, slots=True)
class Resume:
    """A stream that was lost and came back."""

    seconds: float
    """From the loss (or from when the client was told to come back) to the new stream."""
    tries: int


@dataclass
class Ledger:
    """The books of all clients of a scenario."""

    calls: list[Call] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Answers to nothing that the session asked, or with another call's token."""
    breaks: list[str] = field(default_factory=list)
    """Events that were not the next one: left out, come twice, or of another session."""
    surprises: list[str] = field(default_factory=list)
    """Anything else that no good server does, such as a status that nothing explains."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Responses that refused, by `GET 503` and the like; `refused` where nobody listened."""
    resumes: list[Resume] = field(default_factory=list)
    """Of the streams that clients keep."""
    continued: list[Resume] = field(default_factory=list)
    """Of the streams that answer one POST."""
    replies: Counter[str] = field(default_factory=Counter)
    """Responses to requests of tools, by method and what became of the POST."""
    ends: Counter[str] = field(default_factory=Counter)
    """Sessions that ended explicitly, by reason."""
    sessions: int = 0
    """Opened."""

    def add(self, other: Ledger) -> None:
        """Take over the books of clients that kept their own."""
        for name, found in vars(other).items():
            if isinstance(found, Counter):
                getattr(self, name).update(found)
            else:
                setattr(self, name, getattr(self, name) + found)

    @property
    def tool_calls(self) -> list[Call]:
        """The calls of tools."""
        return [call for call in self.calls if call.method == "tools/call"]

    @property
    def accepted(self) -> list[Call]:
        """Requests that were accepted for certain."""
        return [call for call in self.calls if call.fate == "accepted"]

    def outcomes(self) -> Counter[str]:
        """How the calls of tools ended, in one word each."""
        return Counter(call.outcome for call in self.tool_calls)

    def by_transport(self) -> dict[Transport, dict[str, int]]:
        """The same for each transport that was used."""
        found: dict[Transport, dict[str, int]] = {}
        for transport in TRANSPORTS:
            outcomes = Counter(call.outcome for call in self.tool_calls if call.transport == transport)
            if outcomes:
                found[transport] = dict(outcomes)
        return found
