"""A client as a good one behaves: it outlives its stream, and notices if anything is lost, twice or not its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urljoin

import httpx2
from tests.acceptance.pods import TLS
from tests.sse import INITIALIZE, PATIENCE, Stream, text_of


class Session:
    """One session, whose stream is opened at one pod and whose messages are posted to another.

    When its stream ends, however, it comes back to the next of `pods` with `Last-Event-ID`. It counts its request
    ids from 0, as every client does, and fails on an answer that it did not ask for, that comes twice, or whose
    event is not the one after the last.
    """

    def __init__(self, key: str, pods: list[str], posts: str) -> None:
        self.posts = posts
        self.ends: list[str] = []
        """What was last read of each stream that ended: the text of its farewell, or the error's name."""
        self.offset = 0
        self.notifications: list[dict[str, Any]] = []
        self.endpoint = ""
        timeout = httpx2.Timeout(PATIENCE, read=PATIENCE * 2)
        self._http = httpx2.AsyncClient(timeout=timeout, trust_env=False, verify=TLS)
        self._headers = {"authorization": f"Bearer {key}"}
        self._pods = pods
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = -1
        self._open = asyncio.Event()
        self._noticed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Session]:
        """Open it for the length of the block, initialized."""
        async with self._http:
            await self.begin()
            try:
                yield self
            finally:
                await self.close()

    async def begin(self) -> None:
        self._reading = asyncio.create_task(self._read())
        opened = asyncio.create_task(self._open.wait())
        await asyncio.wait({self._reading, opened}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if self._reading.done():
            self._reading.result()
        assert opened.done()
        await self.request("initialize", INITIALIZE)
        assert await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"}) == 202

    async def close(self) -> None:
        assert self._reading is not None
        self._reading.cancel()
        (outcome,) = await asyncio.gather(self._reading, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request; its result."""
        return await (await self.send(method, params))

    async def send(self, method: str, params: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Send a request, which must be accepted; what its result will be."""
        self._number += 1
        answer = self.expect(self._number)
        status = await self._post({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        assert status == 202
        return answer

    def expect(self, number: int) -> asyncio.Future[dict[str, Any]]:
        """What the result of the request with that id will be."""
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        return asyncio.ensure_future(asyncio.wait_for(answer, PATIENCE))

    async def told(self, method: str) -> dict[str, Any]:
        """The first notification of that name, which may still have to come."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for notification in self.notifications:
                    if notification["method"] == method:
                        return notification
                self._noticed.clear()
                await self._noticed.wait()

    async def call(self, tool: str, **arguments: object) -> str:
        """Call a tool; the text of its result."""
        return text_of(await self.request("tools/call", {"name": tool, "arguments": arguments}))

    async def _post(self, message: dict[str, Any]) -> int:
        answer = await self._http.post(urljoin(self.posts, self.endpoint), json=message, headers=self._headers)
        return answer.status_code

    async def _read(self) -> None:
        try:
            await self._read_on()
        except Exception as error:
            for answer in self._waiting.values():
                answer.set_exception(error)
            raise

    async def _read_on(self) -> None:
        turn, refusals = 0, 0
        while True:
            base = self._pods[turn % len(self._pods)]
            seen = {"last-event-id": f"{self.endpoint.partition('=')[2]}.{self.offset}"} if self.endpoint else {}
            try:
                async with self._http.stream("GET", f"{base}/t/demo/sse", headers=self._headers | seen) as response:
                    assert response.status_code == 200, await response.aread()
                    refusals = 0
                    await self._follow(await Stream(base, self._http, response, self._headers).begin())
            except httpx2.ConnectError:
                refusals += 1
                assert refusals <= len(self._pods), "no pod is there"
            except httpx2.HTTPError as error:
                self.ends.append(type(error).__name__)
            except EOFError as error:
                self.ends.append(str(error))
            turn += 1

    async def _follow(self, stream: Stream) -> None:
        assert self.endpoint in ("", stream.endpoint), "a resumed stream names the same session"
        self.endpoint = stream.endpoint
        self._open.set()
        while True:
            event = await stream.event()
            offset = int(event.id.partition(".")[2])
            assert offset == self.offset + 1, f"event {offset} came after event {self.offset}"
            self.offset = offset
            message = event.message
            if "id" in message:
                # A KeyError here is an answer to nothing: a foreign one, or one that comes twice.
                self._waiting.pop(message["id"]).set_result(message["result"])
            else:
                self.notifications.append(message)
                self._noticed.set()
