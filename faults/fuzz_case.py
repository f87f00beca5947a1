"""A request as it will be sent, what is wrong with it, and which answers are right.

What is wrong with a request says which statuses are right and at which stage it is found; a stage masks those behind
it, so that nobody without a key learns which sessions there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from faults.fuzz_bodies import LARGEST_BODY, OK, Verdict, judge

CLOSED = 0
"""Instead of a status: the connection ends without an answer."""


class Stage(IntEnum):
    """In which order a request is looked at."""

    HTTP = 0
    FRONT = 1
    ROUTE = 2
    TENANT = 3
    KEY = 4
    REST = 5


@dataclass(frozen=True)
class World:
    """What is there to be asked for."""

    slug: str
    key: str
    session: str
    """Of `key`."""
    spare: str
    """Of `key` too, its stream free to be taken."""
    reader_key: str
    """Lacks the scope of calling tools."""
    reader_session: str
    other_key: str
    """Of the same tenant."""
    foreign_slug: str
    foreign_key: str
    foreign_session: str
    dead_keys: tuple[str, ...]
    """Revoked and replaced ones."""
    suspended_slug: str
    suspended_key: str
    public_slug: str
    public_session: str
    crowded_slug: str
    """Its limits are always reached."""
    crowded_key: str
    crowded_session: str


@dataclass(frozen=True)
class Worlds:
    """The same tenants and keys, with sessions of each transport that has any."""

    sse: World
    http: World


@dataclass(repr=False)
class Case:
    """A request as it will be sent, and what is known of the right answer."""

    world: World
    method: str = "POST"
    slug: str = ""
    route: str = "messages"
    era: Literal["", "http", "modern"] = ""
    """On the address of streamable HTTP: with a session, or stateless."""
    query: dict[str, str] = field(default_factory=dict)
    path: bytes = b""
    """Instead of the path made of slug and route."""
    version: bytes = b"HTTP/1.1"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes | None = None
    sent: bytes | None = None
    """The body as it is sent, framing included; the body as it is where this is None."""
    split: tuple[int, ...] = ()
    """Where the request is cut in parts."""
    ends: bool = False
    """Whether the client closes its side after it."""
    success: int = OK
    findings: list[tuple[Stage, frozenset[int]]] = field(default_factory=list)
    broken: bool = False
    """Whether the connection is of no use afterwards."""
    twists: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Case({'+'.join(self.twists) or 'no twist'}: {self.raw()[:1500]!r})"

    def wrong(self, stage: Stage, *statuses: int) -> None:
        """Note which statuses are right for something that is wrong; with the success, if it may pass as well."""
        self.findings.append((stage, frozenset(statuses)))

    def set(self, name: str, value: bytes | str | None) -> None:
        """Set a header, or leave it out."""
        encoded = name.encode()
        self.headers = [pair for pair in self.headers if pair[0].lower() != encoded]
        if value is not None:
            self.add(name, value)

    def add(self, name: str, value: bytes | str) -> None:
        """Send a header, be it there already or not."""
        self.headers.append((name.encode(), value.encode("latin-1") if isinstance(value, str) else value))

    def use(self, slug: str, key: str, session: str) -> None:
        """Let it be another caller's."""
        self.slug = slug
        self.set("authorization", f"Bearer {key}" if key else None)
        self.carry(session)

    def carry(self, session: str | None) -> None:
        """Name a session, where the transport has it; none where this is None."""
        if self.era == "http":
            self.set("mcp-session-id", session)
        elif self.era == "" and session is None:
            self.query.pop("session_id", None)
        elif self.era == "":
            self.query["session_id"] = str(session)

    def raw(self) -> bytes:
        """The request as it goes over the wire."""
        path = self.path or f"/t/{self.slug}/{self.route}".encode()
        if self.query:
            path += b"?" + b"&".join(f"{name}={value}".encode("latin-1") for name, value in self.query.items())
        lines = [b" ".join((self.method.encode("latin-1"), path, self.version))]
        lines += [name + b": " + value for name, value in self.headers]
        sent = self.sent if self.sent is not None else self.body or b""
        return b"\r\n".join((*lines, b"", b"")) + sent

    def verdict(self) -> Verdict:
        """What the body deserves, where one is posted to a session."""
        return judge(self.body or b"")

    def right(self) -> frozenset[int]:
        """The statuses of which any is right."""
        found: set[int] = set()
        if any(stage is Stage.HTTP for stage, _ in self.findings):
            # How far the request is read before this shows is open: whatever else is wrong may be said instead.
            return frozenset().union(*(statuses for _, statuses in self.findings))
        for stage in Stage:
            here = [statuses for found_at, statuses in self.findings if found_at is stage]
            found |= frozenset().union(*here) - {self.success}
            if any(self.success not in statuses for statuses in here):
                return frozenset(found)
        return frozenset(found | {self.success})

    def wrong_body(self) -> None:
        """Note what is wrong with the body itself, on its way to a session."""
        if len(self.body or b"") > LARGEST_BODY:
            self.wrong(Stage.REST, 413)
            return
        right = self.verdict().right
        if right != {OK}:
            self.wrong(Stage.REST, *{self.success if status == OK else 400 for status in right})
