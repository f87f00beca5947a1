"""A client of the stateless revision (2026-07-28): each POST is for itself, and nothing can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from faults.client import CAPABILITIES, INFO, Client, Question
from faults.ledger import Call
from faults.wire import ENDED, Event, EventStream, Response

_VERSION = "2026-07-28"
_META = {
    "io.modelcontextprotocol/protocolVersion": _VERSION,
    "io.modelcontextprotocol/clientInfo": INFO,
    "io.modelcontextprotocol/clientCapabilities": CAPABILITIES,
}
_LISTEN = {"notifications": {"toolsListChanged": True}}


class ModernClient(Client):
    """No session. The stream that it keeps is a `subscriptions/listen`, asked for anew where it is lost.

    A POST is accepted when its status is there; a response that breaks off afterwards is an explicit end, for
    nothing is left to ask. Where the tool asks first, the call is made again with what it asked for, at the next pod.
    """

    transport = "modern"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._name = f"{self._chance.getrandbits(40):010x}"
        self._number = 0
        self._listened = False

    async def call(self, tool: str, **arguments: object) -> Call:
        """Call a tool, once more for each round of questions; the call of the last round."""
        params, token = self._call_of(tool, arguments)
        call = await self._settle("tools/call", params, token)
        while call.answer is not None and (asks := call.answer.asks) is not None:
            questions: Mapping[str, Question] = asks.get("inputRequests", {})
            responses = {name: await self._think(each, call) for name, each in questions.items()}
            again = {**params, "inputResponses": responses, "requestState": asks.get("requestState")}
            call = await self._settle("tools/call", again, token)
        return call

    async def _settle(self, method: str, params: Mapping[str, Any], token: str = "") -> Call:
        call = await self.request(method, params, token)
        await self.settled(call)
        return call

    def _next_id(self) -> str:
        self._number += 1
        return f"{self._name}-{self._number}"

    def _params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**params, "_meta": _META}

    def _post_head(self, call: Call, url: str) -> bytes:
        return self._head_of(url, call.method, call.tool)

    def _head_of(self, url: str, method: str, name: str = "") -> bytes:
        headers = {"mcp-protocol-version": _VERSION, "mcp-method": method, **({"mcp-name": name} if name else {})}
        return self._head("POST", url, f"/t/{self._account.slug}/mcp", headers)

    def _accepted(self, call: Call, response: Response) -> None:
        if response.stream is not None:
            self._spawn(self._follow(call, response.stream))
        elif response.status == 200:
            self._came(orjson.loads(response.body), call)
        else:
            self.ledger.surprises.append(f"POST of {call.method} was answered {response.status}")

    async def _follow(self, call: Call, stream: EventStream) -> None:
        stream.listen(lambda event: self._heard(event, call))
        await self._watch(stream, call)
        if call.answers:
            return
        self._end_call(call, "cut")
        if stream.over.result() == ENDED:
            self.ledger.surprises.append(f"a stream of {call.method} ended without an answer")

    def _heard(self, event: Event, call: Call | None) -> None:
        if event.id:
            self.ledger.surprises.append(f"an event had the id {event.id}, and nothing can be resumed")
        self._came(orjson.loads(event.data), call)

    # The kept stream.

    async def _prepare(self) -> None:
        while not self.ready.is_set():
            call = await self._settle("server/discover", {})
            if call.outcome == "result":
                self.ready.set()
            elif call.fate == "accepted":
                self.ledger.surprises.append(f"server/discover was answered: {call.outcome}")

    async def _ask_for_stream(self, url: str) -> Response:
        message = {"jsonrpc": "2.0", "id": self._next_id(), "method": "subscriptions/listen"}
        body = orjson.dumps({**message, "params": self._params(_LISTEN)})
        return await self._pool.post(url, self._head_of(url, "subscriptions/listen"), body)

    def _begin(self, stream: EventStream) -> bool:
        stream.listen(self._heard_aside)
        listened, self._listened = self._listened, True
        return listened

    def _heard_aside(self, event: Event) -> None:
        message = orjson.loads(event.data)
        if "method" in message:  # else it says that the server ends it
            self._came(message, None)

    def _over(self, *, found: bool) -> None:
        if not found:
            self.ledger.surprises.append("subscriptions/listen was answered 404")
