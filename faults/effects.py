"""A service outside the system that keeps every execution of a tool: what really happened, whatever was answered.

A record is a line: epoch seconds, process id of the worker, phase, token. It is in the file before the tool is told
so. Phases: `begun` before the effect, `effect` for the effect itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from faults import EFFECTS_VARIABLE, ROOT

BEGUN = "begun"
EFFECT = "effect"
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Execution:
    """One record."""

    at: float
    worker: int
    phase: str
    token: str


@dataclass(frozen=True, slots=True)
class Effects:
    """A running effects service, as scenarios ask it."""

    address: str
    file: Path

    def executions(self) -> list[Execution]:
        """Everything so far, in order."""
        found = []
        for line in self.file.read_text().splitlines():
            at, worker, phase, token = line.split(" ", 3)
            found.append(Execution(float(at), int(worker), phase, token))
        return found

    def counts(self, phase: str) -> Counter[str]:
        """How often each token has reached a phase."""
        return Counter(each.token for each in self.executions() if each.phase == phase)

    async def seen(self, token: str, phase: str = BEGUN, seconds: float = _PATIENCE) -> None:
        """Wait until a token has reached a phase.

        Raises:
            TimeoutError: it has not within `seconds`.
        """
        host, _, port = self.address.rpartition(":")
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, int(port))
            with contextlib.closing(writer):
                writer.write(f"await {phase} {token}\n".encode())
                await reader.readline()


class _Service:
    """The service's own side."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._seen: dict[tuple[str, str], asyncio.Event] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take lines of one connection until it ends."""
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while line := await reader.readline():
                worker, phase, token = line.decode().rstrip("\n").split(" ", 2)
                if worker == "await":
                    await self._event(phase, token).wait()
                else:
                    self._file.write(f"{time.time():.6f} {worker} {phase} {token}\n")
                    self._file.flush()
                    self._event(phase, token).set()
                writer.write(b"ok\n")

    def _event(self, phase: str, token: str) -> asyncio.Event:
        return self._seen.setdefault((phase, token), asyncio.Event())


async def _serve(listener: socket.socket, file: IO[str]) -> None:
    async with await asyncio.start_server(_Service(file).serve, sock=listener) as server:
        await server.serve_forever()


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Effects]:
    """The service as a process of its own, until the end of the block; its file stays."""
    file = directory / "effects"
    file.touch()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port = listener.getsockname()[1]
        # It listens from here on: whoever connects before the process runs is waited for by the kernel.
        process = _start(listener, file)
    try:
        yield Effects(f"127.0.0.1:{port}", file)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(_PATIENCE)


def _start(listener: socket.socket, file: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "faults.effects", str(listener.fileno()), str(file)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=(listener.fileno(),))


def _end_with_parent() -> None:
    sys.stdin.read()  # nothing comes; it ends when whoever started us does
    os._exit(0)


class Reporter:
    """A tool's way to the service: one connection for each worker process, made at first use."""

    def __init__(self) -> None:
        self._owner = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()
        self._answers: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def record(self, token: str, phase: str) -> None:
        """Have one execution kept; returns once it is."""
        async with self._turn:
            if self._streams is None or self._owner != os.getpid():
                host, _, port = os.environ[EFFECTS_VARIABLE].rpartition(":")
                self._streams = await asyncio.open_connection(host, int(port))
                self._owner = os.getpid()
                self._reading = asyncio.create_task(self._read(self._streams[0]))
            kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._answers.put_nowait(kept)
            self._streams[1].write(_line(token, phase))
        await kept

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while await reader.readline():
            kept = self._answers.get_nowait()
            if not kept.done():  # its call may have been cancelled meanwhile
                kept.set_result(None)


def record_now(token: str, phase: str) -> None:
    """The same for tools that block."""
    host, _, port = os.environ[EFFECTS_VARIABLE].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_PATIENCE) as connection:
        connection.sendall(_line(token, phase))
        connection.recv(16)


def _line(token: str, phase: str) -> bytes:
    return f"{os.getpid()} {phase} {token}\n".encode()


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Path(sys.argv[2]).open("a") as kept:
        asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1])), kept))
