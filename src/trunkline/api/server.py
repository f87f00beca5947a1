"""uvicorn's server, stopped in steps of our own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from trunkline.api.connection import Protocol

_CLOSE = (b"connection", b"close")


class Server(uvicorn.Server):
    """uvicorn's server without its own signal handling: the process decides when it stops, and in which order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    def close_after_responses(self) -> None:
        """Have every response from now on say that it is the last one on its connection (RFC 9112, section 9.6).

        Idle connections stay as they are: a request may be on its way on each of them.
        """
        self.config.encoded_headers.append(_CLOSE)  # what the server's clock makes the headers of
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        for connection in self.server_state.connections:
            if isinstance(connection, Protocol) and connection.cycle is not None:
                connection.cycle.keep_alive = False

    async def stop_listening(self, listener: socket.socket) -> None:
        """Close the port without hanging up on who has just connected.

        Closing resets what the kernel has accepted and we have not. So the kernel is told to accept no more, which
        makes newcomers knock again a second later, and what it has is taken over first.
        """
        listener.listen(0)
        for _ in range(2):  # turns of the event loop, each of which accepts what is there
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
