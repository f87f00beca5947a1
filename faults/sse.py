"""One stream, and one connection for posts, nothing hidden: for scenarios that decide every step themselves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import orjson

PATIENCE = 20.0
"""Seconds within which whatever should come at once must come."""
LONGEST_LINE = 16 * 1024 * 1024


class Answered(NamedTuple):
    """A response with its body read whole."""

    status: int
    headers: dict[str, str]
    body: bytes


class Event(NamedTuple):
    """One server-sent event."""

    kind: str
    id: str
    data: bytes

    @property
    def offset(self) -> int:
        """The place in the outbox that the id names."""
        return int(self.id.rpartition(".")[2])


class Refused(Exception):
    """A stream was not opened; `answer` says why."""

    def __init__(self, answer: Answered) -> None:
        super().__init__(f"{answer.status} {answer.body[:300]!r}")
        self.answer = answer


def head(method: str, target: str, host: str, headers: dict[str, str]) -> bytes:
    """The head of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers of a response.

    Raises:
        ConnectionError, asyncio.IncompleteReadError: there is none.
    """
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


class Posts:
    """A keep-alive connection; a post on one that was closed meanwhile goes out on a new one."""

    def __init__(self, base: str) -> None:
        address = urlsplit(base)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, target: str, body: bytes, headers: dict[str, str]) -> Answered:
        """Send a POST and read its response.

        Raises:
            ConnectionError, asyncio.IncompleteReadError: whether it was taken is not known.
        """
        sent = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        async with self._lock, asyncio.timeout(PATIENCE):
            if self._writer is None or self._reader is None or self._writer.is_closing() or self._reader.at_eof():
                self.close()
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            try:
                self._writer.write(head("POST", target, f"{self._host}:{self._port}", sent) + body)
                status, found = await read_head(self._reader)
                answer = Answered(status, found, await self._reader.readexactly(int(found.get("content-length", 0))))
            except BaseException:
                self.close()
                raise
            if found.get("connection", "") == "close":
                self.close()
            return answer

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None


class Listener:
    """An open stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.endpoint = ""
        self.farewell = ""
        """The comments and `retry:` lines since the last event."""
        self.events = self._read()
        """The events that come, until the stream ends, in whatever way."""

    @classmethod
    async def open(cls, base: str, target: str, headers: dict[str, str], receive_buffer: int = 0) -> Self:
        """Open a stream and read its endpoint event.

        Raises:
            Refused: the response was not a stream.
            ConnectionError, asyncio.IncompleteReadError: there was no response.
        """
        address = urlsplit(base)
        async with asyncio.timeout(PATIENCE):
            connection = socket.socket()
            if receive_buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
            except BaseException:
                connection.close()
                raise
            limit = receive_buffer or LONGEST_LINE
            reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
            try:
                writer.write(head("GET", target, address.netloc, headers))
                status, found = await read_head(reader)
                if status != 200:
                    body = await reader.readexactly(int(found.get("content-length", 0)))
                    raise Refused(Answered(status, found, body))
                listener = cls(reader, writer)
                listener.endpoint = (await anext(listener.events)).data.decode()
            except BaseException:
                writer.transport.abort()
                raise
            return listener

    @property
    def session(self) -> str:
        """The session that the endpoint event named."""
        return self.endpoint.rpartition("session_id=")[2]

    async def _read(self) -> AsyncIterator[Event]:
        fields: dict[bytes, bytes] = {}
        rest = b""
        async for chunk in self._chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith((b":", b"retry:")):
                    self.farewell += line.decode() + "\n"
                elif line:
                    name, _, value = line.partition(b":")
                    fields[name] = value.removeprefix(b" ")
                elif fields:
                    kind = fields.get(b"event", b"message").decode()
                    yield Event(kind, fields.get(b"id", b"").decode(), fields.get(b"data", b""))
                    fields, self.farewell = {}, ""
        self.close()

    async def _chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body (RFC 9112, section 7.1)."""
        try:
            while size := int(await self._reader.readline() or b"0", 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
        except (ConnectionError, asyncio.IncompleteReadError):
            return

    async def read_bytes(self, most: int) -> bytes:
        """What comes next, as it is on the wire."""
        return await self._reader.read(most)

    def close(self) -> None:
        """Hang up without a word."""
        self._writer.transport.abort()


def message(method: str, params: dict[str, Any] | None = None, request_id: object = None) -> bytes:
    """A request, or a notification where no id is given."""
    found: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        found["id"] = request_id
    if params is not None:
        found["params"] = params
    return orjson.dumps(found)


INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "faults", "version": "1"}}
