"""A client that outlives its streams, tries other pods, and keeps books of everything, whatever the transport."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar

import orjson

from faults.ledger import Answer, Call, Ledger, Resume, Transport
from faults.pods import ScenarioError
from faults.roaming import PATIENCE, Credentials, NoStream, Roaming
from faults.wire import EventStream, NoResponse, NotSent, Pool, Response

LATE = 15.0
"""Seconds beyond its time within which every accepted call must be answered."""
CAPABILITIES = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
INFO = {"name": "faults", "version": "1"}


Question = Mapping[str, Any]
"""A request of a tool to the client: method and params."""


class Client(Roaming, ABC):
    """One caller, over any of `urls`.

    It keeps one stream, opened at one of them, and comes back to the next when it is lost, after the `retry:` that it
    was told. Each POST goes to the next of `urls`; to yet another where the first was refused. A session that is
    gone has ended explicitly: what can have no answer any more is booked so, and the client goes on with a new one.

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

    transport: ClassVar[Transport]

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
        super().__init__(ledger, account, urls, chance, stall)
        self.session = ""
        """The id of the session; empty before there is one, and where the transport has none."""
        self.at = ""
        """The one of `urls` that holds the kept stream; empty while none does."""
        self.notifications: list[dict[str, Any]] = []
        self.answering: Callable[[Question, Call | None], Mapping[str, Any]] = _decline
        """What a tool's request is answered with, as a JSON-RPC result; with the call it belongs to, where known."""
        self.thinks = 0.0
        """Seconds that such an answer takes at most."""
        self.ready = asyncio.Event()
        """Set while calls can be made."""
        self._pool = pool
        self._call_timeout = call_timeout
        self._uncertain = uncertain
        self._stream: EventStream | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    # What scenarios ask of it.

    async def open(self) -> None:
        """Connect and wait until calls can be made."""
        self._keeping = asyncio.create_task(self._keep())
        ready = asyncio.create_task(self.ready.wait())
        await asyncio.wait({ready, self._keeping}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self.ready.is_set():
            self.ledger.surprises.append("a session could not be opened")

    async def close(self) -> None:
        """Hang up; a session stays until it expires."""
        tasks = [task for task in (self._keeping, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if self._stream is not None:
            self._stream.close()
        for failure in (*self._failures, *outcomes):
            if isinstance(failure, Exception):
                raise failure

    def hang_up(self) -> None:
        """Lose the kept stream, as a bad network does; the client comes back by itself."""
        if self._stream is not None:
            self._stream.close()

    async def call(self, tool: str, **arguments: object) -> Call:
        """Call a tool with a token of its own and wait for the answer, at most until it is overdue."""
        call = await self.send(tool, **arguments)
        await self.settled(call)
        return call

    async def send(self, tool: str, **arguments: object) -> Call:
        """Call a tool with a token of its own; returns when it is known what became of the POST."""
        return await self.request("tools/call", *self._call_of(tool, arguments))

    async def start(self, tool: str, **arguments: object) -> Call:
        """The same, but returns at once: a POST may be held until the answer is there."""
        call, body = await self._compose("tools/call", *self._call_of(tool, arguments))
        self._spawn(self._post(call, body))
        return call

    async def settled(self, call: Call) -> None:
        """Wait until a call is answered or never will be, and at most until it is overdue."""
        async with asyncio.timeout(2 * PATIENCE):
            await call.known.wait()
        if call.fate in ("accepted", "unknown"):
            left = call.sent_at + self._call_timeout + LATE - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0) if call.fate == "accepted" else 0.5):
                    await call.done.wait()

    async def request(self, method: str, params: Mapping[str, Any], token: str = "") -> Call:
        """Send any request, as soon as requests can be sent; returns when it is known what became of the POST.

        Raises:
            ScenarioError: none could for two minutes.
        """
        call, body = await self._compose(method, params, token)
        await self._post(call, body)
        return call

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> bool:
        """Send a notification; whether it was accepted."""
        message = {"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {})}
        call = Call(-1, "", method, "", self._account.slug, self.session, time.monotonic())
        await self._post(call, orjson.dumps(message))
        return call.fate == "accepted"

    def _call_of(self, tool: str, arguments: Mapping[str, object]) -> tuple[Mapping[str, Any], str]:
        token = f"{self._chance.getrandbits(80):020x}"
        name = "text" if tool == "echo" else "token"
        return {"name": tool, "arguments": {name: token, **arguments}}, token

    async def _compose(self, method: str, params: Mapping[str, Any], token: str = "") -> tuple[Call, bytes]:
        if method not in ("initialize", "server/discover"):
            await self._until_ready()
        tool, slug = str(params.get("name", "")), self._account.slug
        call = Call(self._next_id(), token, method, tool, slug, self.session, time.monotonic())
        call.transport = self.transport
        self.ledger.calls.append(call)
        message = {"jsonrpc": "2.0", "id": call.number, "method": method, "params": self._params(params)}
        return call, orjson.dumps(message)

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.ready.wait()
        except TimeoutError as error:
            raise ScenarioError("A client had no session for two minutes.") from error

    # What the transports differ in.

    @abstractmethod
    def _next_id(self) -> int | str:
        """The JSON-RPC id of the next request."""

    def _params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The params of a request, with whatever the transport wants in them."""
        return params

    @abstractmethod
    def _post_head(self, call: Call, url: str) -> bytes:
        """The head of a POST, without the length."""

    @abstractmethod
    def _accepted(self, call: Call, response: Response) -> None:
        """Read on, where a POST was accepted."""

    def _not_found(self, call: Call) -> None:
        """A POST was answered 404."""

    def _unknowable(self, call: Call) -> None:
        """Whether a POST was accepted is not known; unless a stream may still tell, nothing comes of it."""
        call.done.set()

    @abstractmethod
    async def _prepare(self) -> None:
        """Do what must be before the kept stream can be asked for."""

    @abstractmethod
    async def _ask_for_stream(self, url: str) -> Response:
        """Ask one pod for the kept stream, from where it was lost."""

    @abstractmethod
    def _begin(self, stream: EventStream) -> bool:
        """Read the kept stream from now on; whether it goes on where another was lost."""

    @abstractmethod
    def _over(self, *, found: bool) -> None:
        """The kept stream is over; or no pod has it any more, where it was not `found`."""

    # POSTs.

    async def _post(self, call: Call, body: bytes) -> None:
        give_up, tried = time.monotonic() + PATIENCE, 0
        while call.fate == "sent":
            tried += 1
            pause = await self._try_post(call, self._next_url(), body)
            if call.fate != "sent":
                break
            if call.session != self.session or time.monotonic() > give_up:
                self._book(call, "refused", call.status)
            else:
                # The others are tried at once, after all of them have refused it is time to wait.
                await asyncio.sleep(pause if tried % len(self.urls) == 0 or call.status == 429 else 0.01)

    async def _try_post(self, call: Call, url: str, body: bytes) -> float:
        """One try, booked; seconds after which another makes sense, where `call.fate` stays `sent`."""
        try:
            response = await self._pool.post(url, self._post_head(call, url), body)
        except NotSent:
            self.ledger.refusals["POST, nobody there"] += 1
            return 0.1
        except NoResponse:
            self._book(call, "unknown", 0)
            return 0
        self._judge(call, response, uncertain=url in self._uncertain)
        return self._pause(response)

    def _judge(self, call: Call, response: Response, *, uncertain: bool) -> None:
        call.status = status = response.status
        if status in (200, 202):
            self._book(call, "accepted", status)
            self._accepted(call, response)
            return
        self.ledger.refusals[f"POST {status}"] += 1
        if status >= 500 and uncertain:
            self._book(call, "unknown", status)
        elif status == 404:
            self._book(call, "refused", 404)
            self._not_found(call)
        elif status not in (429, 503):
            self._book(call, "refused", status)
            self.ledger.surprises.append(f"POST of {call.method} was answered {status} {response.body[:200]!r}")
        elif not response.retry_after:
            self.ledger.surprises.append(f"{status} came without Retry-After")

    def _book(self, call: Call, fate: str, status: int) -> None:
        call.fate = fate  # type: ignore[assignment]
        call.status = status
        call.accepted_at = time.monotonic()
        call.known.set()
        if fate == "refused":
            call.done.set()
        elif fate == "unknown":
            self._unknowable(call)

    # The kept stream.

    async def _keep(self) -> None:
        lost_at: float | None = None
        while True:
            await self._prepare()
            try:
                found = await self._find(self._ask_for_stream)
            except NoStream:
                return
            if found is None:
                self._over(found=False)
                await asyncio.sleep(0.02)
                continue
            self._stream, self.at = found.stream, found.url
            if self._begin(found.stream) and lost_at is not None:
                self.ledger.resumes.append(Resume(time.monotonic() - lost_at, found.tries))
            await self._watch(found.stream)
            self.at = ""
            lost_at = time.monotonic()
            self._over(found=True)
            if found.stream.retry is not None:
                await asyncio.sleep(found.stream.retry)
                lost_at = time.monotonic()

    # The books.

    def _came(self, message: dict[str, Any], call: Call | None) -> None:
        """A message came: for `call`, or for none that is known where this is None."""
        if "method" in message:
            if "id" in message:
                self._spawn(self._reply(message, call))
            else:
                self.notifications.append(message)
            return
        answer = Answer.of(message)
        fits = call is not None and call.number == message.get("id")
        if call is None or not fits or (call.token and answer.kind == "result" and call.token != answer.text):
            self.ledger.foreign.append(f"{orjson.dumps(message)[:200]!r} in {self.session}")
            return
        call.answers.append(answer)
        call.done.set()

    async def _reply(self, question: Question, call: Call | None) -> None:
        """Answer a tool's request; should the connection break, again: a second answer does no harm."""
        result = await self._think(question, call)
        body = orjson.dumps({"jsonrpc": "2.0", "id": question["id"], "result": result})
        session = call.session if call is not None else self.session
        reply = Call(-1, "", "response", "", self._account.slug, session, time.monotonic())
        await self._post(reply, body)
        while reply.fate == "unknown":
            await asyncio.sleep(0.05)
            reply.fate = "sent"
            await self._post(reply, body)
        self.ledger.replies[f"{question['method']} {reply.status}"] += 1

    async def _think(self, question: Question, call: Call | None) -> Mapping[str, Any]:
        result = self.answering(question, call)  # at once: what comes next may depend on what came before
        await asyncio.sleep(self._chance.uniform(0, self.thinks))
        return result

    def _end_call(self, call: Call, reason: str) -> None:
        call.ended = reason
        call.done.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)


def _decline(question: Question, _: Call | None) -> Mapping[str, Any]:
    return {"action": "decline"}
