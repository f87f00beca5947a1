"""A TCP proxy that behaves as networks do: it delays, stalls one way or both, cuts and half-closes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Literal

Direction = Literal["up", "down", "both"]
"""`up` is what clients send to the target, `down` what the target answers."""

_PIECE = 65_536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER without time: closing then sends a reset, as a vanished peer's kernel does."""


class _Way:
    """One direction of all connections."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.open = asyncio.Event()
        self.open.set()


class Proxy:
    """Forwards connections to `host`:`port`, byte for byte, until told otherwise.

    Guarantee: nothing is lost, doubled or reordered by a delay or a stall; what was held goes on after `heal`. The
    port stays the proxy's own through `cut` and `heal`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._up, self._down = _Way(), _Way()
        self._connections: dict[asyncio.Task[None], tuple[socket.socket, list[asyncio.Task[None]]]] = {}
        self._bound: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.port = 0
        """Where clients connect, on 127.0.0.1; 0 before `start`."""
        self.accepted = 0
        """Connections so far."""

    async def start(self) -> int:
        """Accept connections; the port."""
        self._bind()
        self._listen()
        return self.port

    def lead_to(self, host: str, port: int) -> None:
        """Forward new connections elsewhere, as a name does that was changed; the others stay."""
        self._target = (host, port)

    def delay(self, seconds: float) -> None:
        """Hold each piece of up to 64 KiB for so long, either way: a round trip takes at least twice that."""
        self._up.delay = self._down.delay = seconds

    def stall(self, direction: Direction) -> None:
        """Forward nothing that way, on connections old and new, all of which stay open."""
        for name, way in (("up", self._up), ("down", self._down)):
            if direction in (name, "both"):
                way.open.clear()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._accepting is None or self._bound is None:
            return
        # Taken from the loop before it is closed: its descriptor's number may be the next socket's.
        asyncio.get_running_loop().remove_reader(self._bound)
        self._accepting.cancel()
        self._accepting = None
        self._bound.close()
        self._bind()  # bound without listening, the port refuses, and nobody else gets it
        for task, (client, _) in list(self._connections.items()):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            task.cancel()

    def half_close(self) -> None:
        """End the way down of every connection there is: clients read an end, and may still send."""
        for client, pumps in self._connections.values():
            if len(pumps) == 2:
                pumps[1].cancel()
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def heal(self) -> None:
        """Forward as in the beginning."""
        self.delay(0)
        for way in (self._up, self._down):
            way.open.set()
        if self._accepting is None:
            self._listen()

    async def aclose(self) -> None:
        """End every connection and give the port back."""
        ending = [task for task in (self._accepting, *self._connections) if task is not None]
        self._accepting = None
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    def _bind(self) -> None:
        self._bound = socket.socket()
        self._bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._bound.setblocking(False)
        self._bound.bind(("127.0.0.1", self.port))
        self.port = self._bound.getsockname()[1]

    def _listen(self) -> None:
        if self._bound is not None:
            self._bound.listen(1024)
            self._accepting = asyncio.create_task(self._accept(self._bound))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            self.accepted += 1
            pumps: list[asyncio.Task[None]] = []
            task = asyncio.create_task(self._serve(client, pumps))
            self._connections[task] = (client, pumps)
            task.add_done_callback(self._connections.pop)

    async def _serve(self, client: socket.socket, pumps: list[asyncio.Task[None]]) -> None:
        loop = asyncio.get_running_loop()
        with client, socket.socket() as target:
            for end in (client, target):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await loop.sock_connect(target, self._target)
                pumps += [
                    asyncio.create_task(_pump(client, target, self._up)),
                    asyncio.create_task(_pump(target, client, self._down)),
                ]
                done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
                for pump in done:
                    if not pump.cancelled():
                        pump.result()
            except OSError:  # what one side does, refusing or resetting, the other side sees
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            finally:
                # The loop must not watch a descriptor that is closed.
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: socket.socket, sink: socket.socket, way: _Way) -> None:
    """Forward until `source` ends, and its end after it."""
    loop = asyncio.get_running_loop()
    while True:
        piece = await loop.sock_recv(source, _PIECE)
        if way.delay:
            await asyncio.sleep(way.delay)
        await way.open.wait()
        if not piece:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
            return
        await loop.sock_sendall(sink, piece)
