"""Messages and headers of every kind, right, nearly right and wrong: the right code for each, no 5xx, no crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
from hypothesis import HealthCheck, Phase, given, seed, settings
from sqlalchemy import text

from faults import oracles
from faults.client import Client
from faults.deployment import Account, Rig
from faults.fuzz_bodies import OK
from faults.fuzz_case import CLOSED, Case, World
from faults.fuzz_requests import requests
from faults.fuzz_wire import Response, Violation, Wire
from faults.oracles import Finding
from faults.scenarios import Figures, scenario
from faults.sse import Listener, Refused
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants

LIMITS_OUT_OF_THE_WAY = {
    "tenant_rate": 1e6, "tenant_burst": 10**6, "tenant_sessions": 10**6, "tenant_in_flight": 10**5,
    "session_rate": 1e6, "session_burst": 10**6,
}  # fmt: skip
"""Limits are tried on one tenant, which has its own."""
_MARKS = ('"request failed"', '"call failed"', "Traceback", '"level":"error"')
_KEY = re.compile(rb"tlk_[\w.-]{100,}")
_LARGE = 10_000
"""Cases from which on there are two pods of each kind."""


@dataclass
class Books:
    """What was accepted and what was answered, by session and JSON-RPC id, and all statuses."""

    accepted: Counter[tuple[str, str]] = field(default_factory=Counter)
    cancelled: set[tuple[str, str]] = field(default_factory=set)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    twists: Counter[str] = field(default_factory=Counter)
    tool_calls: int = 0
    """Accepted requests that call a tool: an audit row each."""
    lost: list[str] = field(default_factory=list)
    """Streams that ended though nobody ended them."""

    def missing(self) -> list[str]:
        """Requests that were accepted, not taken back, and not answered yet."""
        return [
            f"{session} {request_id}: {count} accepted, {self.answered[session, request_id]} answered"
            for (session, request_id), count in self.accepted.items()
            if self.answered[session, request_id] < count and (session, request_id) not in self.cancelled
        ]

    def unasked(self) -> list[str]:
        """Answers beyond what was accepted."""
        return [
            f"{session} {request_id}: {count} answered, {self.accepted[session, request_id]} accepted"
            for (session, request_id), count in self.answered.items()
            if count > self.accepted[session, request_id]
        ]


def plain(request_id: object) -> str:
    """An id in one spelling: JSON has many for a letter, and two for a whole number."""
    if isinstance(request_id, float) and request_id.is_integer():
        request_id = int(request_id)
    return json.dumps(request_id)


class Fuzz:
    """Sends cases one by one, over connections that are kept, and checks each answer."""

    def __init__(self, urls: list[str], world: World, books: Books) -> None:
        self._wires = [Wire(url) for url in urls]
        self._turn = 0
        self._books = books
        self._smallest: Violation | None = None
        self.world = world

    def run(self, count: int, number: int) -> None:
        """Send so many cases, found with the seed `number`.

        Raises:
            Violation: an answer was not right; the smallest such case is in the message.
        """

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
        )
        @given(requests(self.world))
        def every_answer_is_right(case: Case) -> None:
            self.send(case)

        try:
            every_answer_is_right()
        except ExceptionGroup:  # the same case went well when it was tried again
            if self._smallest is None:
                raise
            raise self._smallest from None
        finally:
            for wire in self._wires:
                wire.close()

    def send(self, case: Case) -> None:
        """Send one case and check the answer."""
        self._turn += 1
        wire = self._wires[self._turn % len(self._wires)]
        raw, before = case.raw(), wire.before
        try:
            response = wire.exchange(raw, case.split, ends=case.ends, head=case.method == "HEAD")
            self._check(case, response)
            if not case.broken and not wire.quiet():
                raise Violation("more came than one answer")
        except Violation as violation:
            wire.close()
            text = f"{violation} [{'+'.join(case.twists)}]\n  sent: {_shown(raw)}"
            if before:  # what went wrong may be its doing
                text += f"\n  behind, on the same connection: {_shown(before)}"
            if self._smallest is None or len(text) < len(str(self._smallest)):
                self._smallest = Violation(text)
            raise Violation(text) from None
        if case.broken or case.ends:
            wire.close()
        self._book(case, response)

    def _check(self, case: Case, response: Response) -> None:
        right = case.right()
        if response.status not in right:
            raise Violation(f"{response.status} {response.body[:300]!r}, where {sorted(right)} would be right")
        if response.status >= 400:
            self._check_refusal(case, response)
        elif response.status == OK and response.body != b"Accepted":
            raise Violation(f"202 with {response.body[:100]!r}")

    def _check_refusal(self, case: Case, response: Response) -> None:
        headers = response.headers
        if case.method == "HEAD":
            return
        document = _document(response)
        wanted = {401: "www-authenticate", 405: "allow", 429: "retry-after", 503: "retry-after"}.get(response.status)
        if wanted and not headers.get(wanted):
            raise Violation(f"{response.status} without {wanted}")
        if "retry-after" in headers and int(headers["retry-after"]) < 1:
            raise Violation(f"Retry-After: {headers['retry-after']}")
        if document["id"] is not None and case.body is None:
            raise Violation(f"an error with the id of nothing: {response.body[:300]!r}")
        # Where the body alone is wrong, the code says how.
        if response.status == 400 and case.body is not None and not case.twists:
            right = case.verdict().right - {OK}
            if document["error"]["code"] not in right:
                raise Violation(f"code {document['error']['code']}, where {sorted(right)} would be right")

    def _book(self, case: Case, response: Response) -> None:
        self._books.statuses[str(response.status) if response.status != CLOSED else "hung up"] += 1
        self._books.twists.update(case.twists)
        if response.status != OK:
            return
        verdict, session = case.verdict(), _session(case)
        if verdict.request is not None:
            self._books.accepted[session, plain(json.loads(verdict.request))] += 1
            self._books.tool_calls += verdict.calls_tool
        if verdict.cancels is not None:
            self._books.cancelled.add((session, plain(json.loads(verdict.cancels))))


def _shown(raw: bytes) -> str:
    return repr(_KEY.sub(b"tlk_...", raw)[:1500])


def _session(case: Case) -> str:
    """The session that an accepted case went to, however it was written."""
    world = case.world
    known = (world.session, world.reader_session, world.public_session, world.crowded_session)
    named = case.query["session_id"]
    return next((session for session in known if session in named), world.session)


def _document(response: Response) -> dict[str, Any]:
    if not response.headers.get("content-type", "").startswith("application/json"):
        raise Violation(f"{response.status} as {response.headers.get('content-type')}")
    document = orjson.loads(response.body)
    if document.get("jsonrpc") != "2.0" or "id" not in document:
        raise Violation(f"no JSON-RPC error: {response.body[:300]!r}")
    error = document.get("error", {})
    if not isinstance(error.get("code"), int) or not error.get("message") or "Traceback" in error["message"]:
        raise Violation(f"no error for people: {response.body[:300]!r}")
    found: dict[str, Any] = document
    return found


# The world that the cases know.


@contextlib.asynccontextmanager
async def world(rig: Rig, books: Books) -> AsyncIterator[World]:
    """Tenants, keys and sessions of every kind; all that comes on the sessions' streams is booked."""
    tenants, keys = Tenants(rig.settings, rig.database, rig.redis), Keys(rig.settings, rig.database, rig.redis)
    demo = rig.accounts["demo"]
    foreign, suspended = await rig.tenant("foreign"), await rig.tenant("suspended")
    public, crowded = await rig.tenant("everyone"), await rig.tenant("crowded")
    reader, _ = await keys.issue("demo", scopes=["mcp:read"])
    other, _ = await keys.issue("demo")
    revoked, record = await keys.issue("demo")
    await keys.revoke(record.id)
    replaced, record = await keys.issue("demo")
    await keys.rotate(record.id, overlap=timedelta(0))
    await tenants.set("everyone", {"access": "public"})
    await tenants.suspend("suspended")
    streams = _Streams(rig.urls, books)
    try:
        made = World(
            slug=demo.slug,
            key=demo.key,
            session=await streams.open(demo),
            spare=await streams.open(demo, listen=False),
            reader_key=reader,
            reader_session=await streams.open(Account("demo", demo.id, reader)),
            other_key=other,
            foreign_slug=foreign.slug,
            foreign_key=foreign.key,
            foreign_session=await streams.open(foreign),
            dead_keys=(revoked, replaced),
            suspended_slug=suspended.slug,
            suspended_key=suspended.key,
            public_slug=public.slug,
            public_session=await streams.open(Account(public.slug, public.id, "")),
            crowded_slug=crowded.slug,
            crowded_key=crowded.key,
            crowded_session=await streams.open(crowded),
        )
        await tenants.set("crowded", {"rate": "1", "burst": "1", "in_flight": "1"})
        yield made
    finally:
        await streams.close()


class _Streams:
    """The streams of the world's sessions."""

    def __init__(self, urls: list[str], books: Books) -> None:
        self._urls = urls
        self._books = books
        self._open: list[tuple[Listener, asyncio.Task[None] | None]] = []

    async def open(self, account: Account, *, listen: bool = True) -> str:
        headers = {"authorization": f"Bearer {account.key}"} if account.key else {}
        url = self._urls[len(self._open) % len(self._urls)]
        stream = await Listener.open(url, f"/t/{account.slug}/sse", headers)
        task = asyncio.create_task(self._listen(stream, url, account.slug, headers)) if listen else None
        self._open.append((stream, task))
        return stream.session

    async def _listen(self, stream: Listener, url: str, slug: str, headers: dict[str, str]) -> None:
        """Book answers; a stream that is told to come back does."""
        session, last = stream.session, f"{stream.session}.0"
        while True:
            async for event in stream.events:
                last = event.id or last
                if event.kind != "message":
                    continue
                document = orjson.loads(event.data)
                if "method" not in document:
                    self._books.answered[session, plain(document.get("id"))] += 1
            self._books.lost.append(f"{slug}: {stream.farewell!r}")
            try:
                stream = await Listener.open(url, f"/t/{slug}/sse", {**headers, "last-event-id": last})
            except Refused as refused:
                self._books.lost.append(f"{slug}: {refused}")
                return

    async def close(self) -> None:
        for stream, task in self._open:
            stream.close()
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for _, task in self._open if task is not None), return_exceptions=True)


@scenario(
    "fuzz",
    "messages and headers of every kind: right, nearly right, garbage",
    "no 5xx, no crash, the right code for each; ordinary calls go on",
    small=1_500,
    full=100_000,
    deploys=False,
)
async def fuzz(rig: Rig, size: int) -> Figures:
    """Send so many cases to the API pods while ordinary calls go on beside them."""
    rig.configure(**LIMITS_OUT_OF_THE_WAY)
    await rig.start(apis=1 if size < _LARGE else 2, workers=1 if size < _LARGE else 2)
    books = Books()
    wrong = ""
    async with world(rig, books) as made:
        over = asyncio.Event()
        beside = await rig.many_clients(len(rig.transports), "foreign")
        calling = asyncio.gather(*(_call_on(client, over) for client in beside))
        try:
            await asyncio.to_thread(Fuzz([pod.url for pod in rig.apis], made, books).run, size, rig.seed)
        except Violation as violation:
            wrong = str(violation)
        await _until_empty(books.missing, rig.settings.call_timeout + 15)
        over.set()
        await calling
        await rig.hang_up()
    return Figures(
        f"{sum(books.statuses.values()):,} requests, most of them wrong in one way or several.",
        {"statuses": _text(books.statuses), "wrong in": _text(books.twists), "ordinary calls": len(rig.ledger.calls)},
        (Finding("the right code", not wrong, wrong or "always"), *await _findings(rig, books)),
    )


async def _findings(rig: Rig, books: Books) -> list[Finding]:
    ordinary = rig.ledger.tool_calls
    failed = [call.outcome for call in ordinary if call.outcome != "result"]
    errors = [status for status in books.statuses if status.startswith("5")]
    rows = await _audit_rows(rig, books.tool_calls + len(ordinary))
    left = await oracles.pending(rig)
    unwell = _unwell(rig)
    return [
        Finding("5xx", not errors, str(errors or 0)),
        Finding("crashes, and errors in the logs", not unwell, "; ".join(unwell[:3]) or "0"),
        Finding("accepted without answer", not books.missing(), "; ".join(books.missing()[:5]) or "0"),
        Finding("answers to nothing", not books.unasked(), "; ".join(books.unasked()[:5]) or "0"),
        Finding("streams lost", not books.lost, "; ".join(books.lost[:5]) or "0"),
        Finding("ordinary calls that failed", bool(ordinary) and not failed, str(failed or 0)),
        Finding("audit rows of accepted calls", rows >= 0, "all" if rows >= 0 else f"{-rows} missing"),
        Finding("nothing pending", not left, str(left or 0)),
    ]


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


async def _audit_rows(rig: Rig, wanted: int) -> int:
    """How many rows there are beyond `wanted`, once they have been given time to come."""
    statement = text("SELECT count(*) FROM audit_events WHERE action = 'tools/call'")
    found = -1
    for _ in range(100):
        async with rig.database.transaction() as transaction:
            found = int(await transaction.scalar(statement) or 0)
        if found >= wanted and not await oracles.pending(rig):
            break
        await asyncio.sleep(0.1)
    return found - wanted


async def _call_on(client: Client, over: asyncio.Event) -> None:
    while not over.is_set():
        await client.call("echo")
        await asyncio.sleep(0.05)


async def _until_empty(left: Callable[[], list[str]], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while left():
                await asyncio.sleep(0.05)


def _unwell(rig: Rig) -> list[str]:
    """Pods that have ended, and lines that only a mistake of ours writes."""
    found = [f"{pod.kind} ended: {pod.process.returncode}" for pod in (*rig.apis, *rig.workers) if not pod.running]
    for pod in rig.pods:
        lines = pod.log.read_text(errors="replace").splitlines()
        found += [f"{pod.kind}: {line[:600]}" for line in lines if any(mark in line for mark in _MARKS)]
    return found
