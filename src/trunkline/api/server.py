"""uvicorn's server, stopped in steps of our own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
from collections.abc import Iterator

import uvicorn

from trunkline.api.connection import Protocol

_CLOSE = (b"connection", b"close")
_HANDSHAKE = 0.2
"""Seconds that a handshake has to come to its end, and so to be accepted, before the port is closed."""

_SO_ATTACH_FILTER = 26  # Linux, asm-generic/socket.h; the module `socket` does not name it
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the flags (RFC 9293, section 3.1)
    (0x54, 0, 0, 0x12),  # of these, SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # then drop the segment,
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep it whole
)
"""A program of the kernel's packet filter: (code, jump if true, jump if false, operand), as in linux/filter.h."""


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

    async def stop_listening(self, listener: socket.socket, hurry: asyncio.Event) -> None:
        """Close the port without hanging up on who has just connected.

        Closing resets what the kernel has accepted and we have not. So newcomers are turned away first, who knock
        again a second later, and who is there already is taken over, unless somebody is in a hurry.
        """
        _turn_newcomers_away(listener)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), _HANDSHAKE)  # the event loop accepts meanwhile
        for server in self.servers:
            server.close()


def _turn_newcomers_away(listener: socket.socket) -> None:
    """Have the kernel drop what opens a connection, as if it were lost on the way."""
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
        attached = struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
        with contextlib.suppress(OSError):  # a sandbox may not allow it
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
            return
    listener.listen(0)  # one more at a time may slip in
