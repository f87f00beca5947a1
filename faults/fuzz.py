"""Messages and headers of every kind, right, nearly right and wrong: the right code for each, no 5xx, no crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import HealthCheck, Phase, given, seed, settings
from sqlalchemy import text

from faults import oracles
from faults.client import Client
from faults.deployment import Rig
from faults.fuzz_bodies import OK
from faults.fuzz_case import CLOSED, Case, Worlds
from faults.fuzz_mcp import wrong_answer
from faults.fuzz_requests import requests
from faults.fuzz_wire import Response, Violation, Wire
from faults.fuzz_world import world
from faults.oracles import Finding
from faults.scenarios import Figures, scenario
from trunkline.db import task_scope

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

    def note(self, session: str, request_id: object) -> None:
        """An answer came on a stream."""
        self.answered[session, plain(request_id)] += 1

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

    def __init__(self, urls: list[str], worlds: Worlds, books: Books) -> None:
        self._wires = [Wire(url) for url in urls]
        self._turn = 0
        self._books = books
        self._smallest: Violation | None = None
        self.worlds = worlds

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
        @given(requests(self.worlds))
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
        elif response.status == OK and response.body not in (b"Accepted", b""):
            raise Violation(f"202 with {response.body[:100]!r}")
        if case.era and case.method == "POST" and response.headers.get("content-type") == "application/json":
            wrong = wrong_answer(case, response.status, orjson.loads(response.body))
            if wrong:
                raise Violation(f"{wrong}: {response.body[:300]!r}")

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
        if response.status == 400 and case.body is not None and not case.twists and case.era != "modern":
            right = case.verdict().right - {OK}
            if document["error"]["code"] not in right:
                raise Violation(f"code {document['error']['code']}, where {sorted(right)} would be right")

    def _book(self, case: Case, response: Response) -> None:
        self._books.statuses[str(response.status) if response.status != CLOSED else "hung up"] += 1
        self._books.twists.update(case.twists)
        if case.era:  # the answer came with the response
            self._books.tool_calls += response.status == 200 and case.verdict().calls_tool
            return
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
    async with world(rig, books.note, books.lost) as made:
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
        async with rig.database.transaction(task_scope("audit")) as transaction:
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
