"""One tool call as a client makes it: through the SDK's own client, so what works here works for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson
from mcp import ClientSession, MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Implementation, TextContent

from trunkline import __version__
from trunkline.errors import TrunklineError, UsageError

_CONNECT_TIMEOUT = 5.0
HANDSHAKE_TIMEOUT = 30.0
"""Seconds from connecting to the answer of `initialize`."""
_SILENCE_TIMEOUT = 300.0
"""Seconds without a byte after which a stream is dead; ours carries a comment every 15 s."""
_LONGEST_REASON = 500
_CLIENT = Implementation(name="trunkline", version=__version__)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What a tool answered."""

    text: str
    """Text content, a line each; other content as JSON."""
    ok: bool
    """False where the tool itself says that it failed; the text then says why."""


async def call(url: str, tool: str, arguments: dict[str, Any], key: str | None) -> CallOutcome:
    """Connect to a tenant's `/sse` or `/mcp` URL, call one tool, disconnect.

    Raises:
        UsageError: the URL or the key cannot be one.
        TrunklineError: the call did not happen, or its answer did not arrive; the sentence says what to do.
    """
    attempt = _Attempt(url, key)
    conversation = asyncio.create_task(attempt.converse(tool, arguments))
    ends: set[asyncio.Future[Any]] = {conversation, attempt.refused}
    try:
        # The SDK's SSE client only logs a POST that was refused, and would wait for its answer all the same.
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if attempt.refused.done() and not _succeeded(conversation):
            raise attempt.refused.result()
        return _outcome(await conversation)
    except (ExceptionGroup, MCPError, httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _explain(next(_leaves(error)), attempt.origin) from error
    finally:
        conversation.cancel()
        await asyncio.gather(conversation, return_exceptions=True)


def _succeeded(task: asyncio.Future[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # brackets or a port that are none
        return ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}" if parts.scheme in {"http", "https"} and host else ""


class _Attempt:
    """One connection to one URL, and the first answer of the server that refuses something."""

    def __init__(self, url: str, key: str | None) -> None:
        path = url.partition("?")[0].rstrip("/")
        self.origin = _origin(url)
        if not self.origin or not path.endswith(("/sse", "/mcp")):
            raise UsageError(f"{url!r} is not a tenant's URL: it looks like http://127.0.0.1:8000/t/demo/mcp.")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise UsageError("The API key contains characters that no key has; copy it again.")
        self.url = url
        self.refused: asyncio.Future[TrunklineError] = asyncio.get_running_loop().create_future()
        self._sse = path.endswith("/sse")
        self._key = key

    async def converse(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        # A stream that breaks before its endpoint event leaves the SDK's client waiting for ever.
        async with (
            asyncio.timeout(HANDSHAKE_TIMEOUT) as handshake,
            self._streams() as (read, write),
            ClientSession(read, write, client_info=_CLIENT) as session,
        ):
            await session.initialize()
            handshake.reschedule(None)
            return await session.call_tool(tool, arguments)

    @asynccontextmanager
    async def _streams(self) -> AsyncIterator[Any]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        if self._sse:
            async with sse_client(
                self.url,
                headers=headers,
                timeout=_CONNECT_TIMEOUT,
                sse_read_timeout=_SILENCE_TIMEOUT,
                httpx_client_factory=self._http,
            ) as streams:
                yield streams
        else:
            async with self._http(headers) as http, streamable_http_client(self.url, http_client=http) as streams:
                yield streams

    def _http(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=headers,
            timeout=timeout or httpx2.Timeout(_CONNECT_TIMEOUT, read=_SILENCE_TIMEOUT),
            auth=auth,
            event_hooks={"response": [self._watch]},
        )

    async def _watch(self, response: httpx2.Response) -> None:
        """Note a refusal. A streamable server may refuse the GET stream and the DELETE; that hinders no call."""
        needed = response.request.method == "POST" or self._sse
        if response.status_code < 400 or not needed or self.refused.done():
            return
        try:
            body = await response.aread()
        except httpx2.HTTPError:
            body = b""
        if not self.refused.done():
            self.refused.set_result(_refusal(response, body, self._key))


def _refusal(response: httpx2.Response, body: bytes, key: str | None) -> TrunklineError:
    reason = _reason(body) or f"HTTP status {response.status_code}."
    match response.status_code:
        case 401 if key is None:
            return TrunklineError("The server wants an API key: pass it with --key or set TRUNKLINE_API_KEY.")
        case 401:
            return TrunklineError(f"The server refused the API key: {reason}")
        case 404:
            return TrunklineError(f"The server does not know this URL or session: {reason} Check the URL.")
        case 429 | 503:
            wait = response.headers.get("retry-after", "")
            again = f" Try again in {wait} s." if wait.isdigit() else ""
            return TrunklineError(f"The server is not taking the call now: {reason}{again}")
        case _:
            return TrunklineError(f"The server refused the call: {reason}")


def _reason(body: bytes) -> str:
    """The sentence in the JSON body of an error, if it has one."""
    try:
        reason = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return ""
    return reason[:_LONGEST_REASON] if isinstance(reason, str) else ""


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _explain(error: BaseException, origin: str) -> TrunklineError:
    match error:
        case TrunklineError():
            return error
        case MCPError() if str(error) != "Connection closed":
            return TrunklineError(f"The server answered with an error: {error}")
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return TrunklineError(f"Nothing answers at {origin}; check the address and that the server runs.")
        case httpx2.TimeoutException() | TimeoutError():
            return TrunklineError(f"{origin} accepts connections and does not answer in time; try again later.")
        case MCPError() | httpx2.HTTPError() | OSError():
            return TrunklineError(
                f"The connection to {origin} broke before the answer came; whether the tool ran is not known."
            )
        case _:
            return TrunklineError(f"The answer of {origin} is not what an MCP server sends: {error}")


def _outcome(result: CallToolResult) -> CallOutcome:
    parts = [
        block.text if isinstance(block, TextContent) else block.model_dump_json(by_alias=True, exclude_none=True)
        for block in result.content
    ]
    if not parts and result.structured_content is not None:
        parts = [orjson.dumps(result.structured_content).decode()]
    return CallOutcome("\n".join(parts), ok=not result.is_error)
