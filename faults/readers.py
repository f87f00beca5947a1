"""Readers at one byte a second whose sessions are sent much: cut off at the bound, missing nothing, no burden."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import orjson

from faults import large
from faults.bystanders import Bystanders, bystanders
from faults.deployment import Account, Rig
from faults.ledger import Answer, Call
from faults.oracles import Finding
from faults.pods import Pod, until
from faults.scenarios import Figures, scenario
from faults.sse import INITIALIZE, Listener, Posts, Refused, message
from trunkline.tenants.tenants import Tenants

_RECEIVE_BUFFER = 1024
"""Bytes; the smaller it is, the less the kernel takes for the connection on the server's side: still 1.7 MiB."""
_HIGH_WATER = 65_536
"""Bytes of a connection that uvicorn keeps before it says that the client does not keep up."""
_SLACK = 32 * 1024 * 1024
"""Bytes that a pod may take whatever it holds for readers."""
_TRIES = 30
"""Resumes after which a reader that reads at full speed must have everything."""
_SETTLING = 0.3
"""Seconds at the beginning of a window that are not looked at."""
_MOST_RATIO = 1.2


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    readers: int
    messages: int
    """That each reader's session is sent."""
    bytes: int
    """Of each message."""
    per_second: float
    """Messages a second to all of them."""
    rounds: int
    """Into which the messages are divided; between two, the others are looked at while nothing is sent."""
    buffer: int
    """STREAM_BUFFER_BYTES."""
    timed: bool
    """Whether how fast the others are answered must hold, and not only be told."""


@dataclass
class Reader:
    """A client that takes one byte a second, until it is told to read."""

    account: Account
    url: str
    posts: Posts
    session: str = ""
    accepted: dict[int, Call] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)
    """Ids of the answers, in the order in which they came."""
    resumes: int = 0
    wrong: str = ""
    _task: asyncio.Task[None] | None = None
    _stream: Listener | None = None

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.account.key}"}

    async def begin(self) -> None:
        """Connect, and read slowly from then on."""
        self._stream = await Listener.open(self.url, f"/t/{self.account.slug}/sse", self._headers, _RECEIVE_BUFFER)
        self.session = self._stream.session
        self._task = asyncio.create_task(self._dawdle(self._stream))
        await self._post(message("initialize", INITIALIZE, 0))
        await self._post(message("notifications/initialized"))

    async def _dawdle(self, stream: Listener) -> None:
        with contextlib.suppress(ConnectionError):
            while await stream.read_bytes(1):
                await asyncio.sleep(1.0)

    async def ask(self, number: int, size: int) -> Call:
        """Have a message of that size sent to the session."""
        token, now = f"{self.session} {number}", time.monotonic()
        call = Call(number, token, "tools/call", "grow", self.account.slug, self.session, now, "accepted", 202, now)
        self.accepted[number] = call  # before it is sent: the answer may come before the response
        arguments = {"token": token, "size": size}
        await self._post(message("tools/call", {"name": "grow", "arguments": arguments}, number))
        return call

    async def _post(self, body: bytes) -> None:
        target = f"/t/{self.account.slug}/messages?session_id={self.session}"
        answer = await self.posts.post(target, body, self._headers)
        if answer.status != 202:
            self.wrong = self.wrong or f"a post was answered {answer.status}: {answer.body[:200]!r}"

    async def catch_up(self) -> None:
        """Give up the slow stream, come back reading at full speed, and take everything that was missed."""
        await self.leave()
        last = 0
        wanted = {0, *self.accepted}
        while len(self.seen) < len(wanted) and self.resumes < _TRIES and not self.wrong:
            self.resumes += 1
            try:
                last = await self.read_on(last, len(wanted))
            except (Refused, OSError, asyncio.IncompleteReadError) as error:
                self.wrong = f"a resume from {last}: {error}"
        if not self.wrong and set(self.seen) != wanted:
            self.wrong = f"{len(self.seen)} of {len(wanted)} came within {self.resumes} resumes"

    async def read_on(self, last: int, wanted: int) -> int:
        """Resume after `last` and read until that many messages have come in all, or the stream ends; the last."""
        headers = {**self._headers, "last-event-id": f"{self.session}.{last}"}
        stream = await Listener.open(self.url, f"/t/{self.account.slug}/sse", headers)
        try:
            async with asyncio.timeout(60):
                async for event in stream.events:
                    if event.kind != "message":
                        continue
                    if event.offset != last + 1:
                        self.wrong = f"{event.offset} came after {last}"
                    last = event.offset
                    self._take(event.data)
                    if len(self.seen) == wanted:
                        break
        finally:
            stream.close()
        return last

    def _take(self, data: bytes) -> None:
        found = orjson.loads(data)
        number, answer = found.get("id"), Answer.of(found)
        self.seen.append(number)
        if number in self.accepted:
            call = self.accepted[number]
            call.answers.append(
                replace(answer, at=call.sent_at)
            )  # when such a reader reads says nothing of the server
            call.done.set()
            if not answer.text.startswith(f"{call.token}."):
                self.wrong = f"{call.token} was answered {answer.text[:100]!r}"

    async def leave(self) -> None:
        """Hang up."""
        if self._stream is not None:
            self._stream.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@dataclass
class Memory:
    """The most that the API pods have taken together, beyond what they had at the beginning."""

    pods: Sequence[Pod]
    before: dict[int, int]
    peak: int = 0

    @classmethod
    def of(cls, pods: Sequence[Pod]) -> Memory:
        """Measured from now on."""
        return cls(pods, {pod.pid: pod.usage()[1] for pod in pods})

    async def watch(self) -> None:
        """Look, until cancelled."""
        while True:
            grown = sum(pod.usage()[1] - self.before[pod.pid] for pod in self.pods)
            self.peak = max(self.peak, grown)
            await asyncio.sleep(0.1)


@scenario(
    "readers",
    "readers at one byte a second whose sessions are sent much",
    "memory bounded, slow ones cut off and resume without loss; others' p99 at most 1.2 times",
    small=Size(60, messages=13, bytes=190 * 1024, per_second=400, rounds=1, buffer=128 * 1024, timed=False),
    full=Size(1_000, messages=60, bytes=48 * 1024, per_second=250, rounds=12, buffer=1024 * 1024, timed=True),
    transports=("sse",),
)
async def readers(rig: Rig, size: Size) -> Figures:
    """Send to slow readers, and as much to ones that read in between; then have the slow ones catch up."""
    await _deploy(rig, size)
    async with bystanders(rig, await rig.tenant("others")) as others:
        async with others.calling("warming"):
            await asyncio.sleep(0.5)
        rig.remember()
        memory, slow, quick = await _begin(rig, size)
        watching = asyncio.create_task(memory.watch())
        try:
            async with others.calling("quiet"):
                await asyncio.sleep(1.0 if not size.timed else 10.0)
            for number in range(size.rounds):
                await _round(size, number, slow, quick, others)
            cut_off = await _cut_off(rig, size)
        finally:
            watching.cancel()
        await _catch_up(slow)
        await _forget(rig, [*slow, *quick])
    return _figures(size, slow, quick, others, memory, cut_off)


async def _deploy(rig: Rig, size: Size) -> None:
    rig.configure(stream_buffer_bytes=size.buffer, stream_write_timeout=10.0 if size.timed else 2.0)
    rig.configure(tenant_in_flight=10_000, session_rate=1e5, session_burst=10**5)
    apis = 1 if size.readers < 200 else 3
    await rig.start(apis=apis, workers=0)
    await Tenants(rig.settings, rig.database, rig.redis).enable("demo", large.NAME)
    for _ in range(apis):
        await rig.worker("--server", large.PATH)


async def _begin(rig: Rig, size: Size) -> tuple[Memory, list[Reader], list[Reader]]:
    memory = Memory.of(rig.apis)
    account = rig.accounts["demo"]
    posts = [Posts(url) for url in rig.urls for _ in range(8)]

    def make(count: int) -> list[Reader]:
        return [Reader(account, rig.urls[n % len(rig.urls)], posts[n % len(posts)]) for n in range(count)]

    slow, quick = make(size.readers), make(8)
    await _all(slow, Reader.begin)
    await _all(quick, Reader.begin)
    for reader in quick:
        await reader.leave()
    return memory, slow, quick


async def _all(found: Sequence[Reader], step: Callable[[Reader], Awaitable[None]], together: int = 16) -> None:
    turns = asyncio.Semaphore(together)

    async def one(reader: Reader) -> None:
        async with turns:
            await step(reader)

    await asyncio.gather(*(one(reader) for reader in found))


async def _round(size: Size, number: int, slow: list[Reader], quick: list[Reader], others: Bystanders) -> None:
    """A share of the messages to the slow ones, then as many, as fast, to ones that read."""
    share = range(number * size.messages // size.rounds, (number + 1) * size.messages // size.rounds)
    turns = [(reader, each + 1) for each in share for reader in slow]
    async with others.calling("sent to slow readers"):
        await _send(turns, size)
    if size.timed:
        async with _reading(quick), others.calling("sent to quick readers"):
            begun = max(quick[0].accepted, default=0) + 1
            repeats = len(turns) // len(quick)
            await _send([(reader, begun + each) for each in range(repeats) for reader in quick], size)
        async with others.calling("quiet"):
            await asyncio.sleep(10.0)


@contextlib.asynccontextmanager
async def _reading(quick: list[Reader]) -> AsyncIterator[None]:
    """Those read what they are sent, as it comes."""
    tasks = [asyncio.create_task(_read_all(reader)) for reader in quick]
    try:
        yield
    finally:
        for reader in quick:
            async with asyncio.timeout(60):
                while len(reader.seen) <= len(reader.accepted) and not reader.wrong:
                    await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_all(reader: Reader) -> None:
    last = len(reader.seen)
    while True:
        last = await reader.read_on(last, 10**9)


async def _send(turns: Sequence[tuple[Reader, int]], size: Size) -> None:
    """Ask for the messages at the rate, whatever the answers take."""
    began, under_way = time.monotonic(), set[asyncio.Task[Call]]()
    for number, (reader, message_number) in enumerate(turns):
        if (ahead := began + number / size.per_second - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        under_way.add(asyncio.create_task(reader.ask(message_number, size.bytes)))
        if len(under_way) > 64:
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*under_way)


async def _cut_off(rig: Rig, size: Size) -> int:
    """How many streams the pods have ended as too slow, once all of them have been given the time."""
    with contextlib.suppress(Exception):
        await until(lambda: _slow_readers(rig) >= size.readers, rig.settings.stream_write_timeout + 20)
    return await asyncio.to_thread(_slow_readers, rig)


def _slow_readers(rig: Rig) -> int:
    return sum(_metric(pod.url, "trunkline_slow_readers_total") for pod in rig.apis)


def _metric(url: str, name: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next((int(float(line.split()[1])) for line in lines if line.startswith(f"{name} ")), 0)


async def _catch_up(slow: list[Reader]) -> None:
    await _all(slow, Reader.catch_up, together=8)


async def _forget(rig: Rig, found: list[Reader]) -> None:
    """Book what was asked, and leave nothing of it in Redis, where it is gigabytes."""
    keys, tenant = rig.redis.keys, rig.accounts["demo"].id
    for reader in found:
        rig.ledger.calls += reader.accepted.values()
        await reader.leave()
        reader.posts.close()
        await rig.redis.command("UNLINK", *keys.stream(tenant, reader.session))


def _figures(
    size: Size, slow: list[Reader], quick: list[Reader], others: Bystanders, memory: Memory, cut_off: int
) -> Figures:
    each = size.buffer + _HIGH_WATER + 2 * size.bytes
    kib = memory.peak // size.readers // 1024
    bound = size.readers * each + _SLACK * len(memory.pods)
    wrong = [reader.wrong for reader in (*slow, *quick) if reader.wrong]
    names = dict.fromkeys(each.window for each in others.waited)
    windows = {name: others.p99(name, _SETTLING) * 1000 for name in names}
    ratio = windows["sent to slow readers"] / windows.get("sent to quick readers", math.nan)
    findings = [
        Finding("memory bounded", memory.peak <= bound, f"{_mib(memory.peak)} of {_mib(bound)}"),
        Finding("slow readers cut off", cut_off == size.readers, f"{cut_off} of {size.readers}"),
        Finding("resumed without loss", not wrong, "; ".join(wrong[:3]) or "all"),
    ]
    if size.timed:
        findings.append(Finding(f"others' p99 at most {_MOST_RATIO} times", ratio <= _MOST_RATIO, f"{ratio:.2f}"))
    return Figures(
        f"{size.readers} readers at one byte a second; each was sent {size.messages} times {size.bytes // 1024} KiB.",
        {
            "others' p99": ", ".join(f"{name} {p99:.1f} ms" for name, p99 in windows.items()),
            "memory of the API pods": f"{_mib(memory.peak)} more at most, {kib} KiB a reader",
            "bound": f"{_mib(bound)}: {each // 1024} KiB a reader and {_mib(_SLACK)} a pod",
            "resumes": f"{max(reader.resumes for reader in slow)} at most until everything was read",
        },
        tuple(findings),
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
