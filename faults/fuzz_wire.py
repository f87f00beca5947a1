"""A client for requests that are none: it sends bytes as they are and reads whatever comes back, with a bound."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

PATIENCE = 20.0
"""Seconds for any answer; a body that does not come is refused after 10."""


class Violation(AssertionError):
    """The answer was not one of the right ones."""


@dataclass
class Response:
    """What came back."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Wire:
    """One kept connection, opened anew when it is needed."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "127.0.0.1", address.port or 80)
        self._socket: socket.socket | None = None
        self._read = b""
        self._last = b""

    @property
    def before(self) -> bytes:
        """The request that was sent last on the connection as it is; empty where it is not open."""
        return self._last if self._socket is not None else b""

    def exchange(
        self, raw: bytes, split: tuple[int, ...] = (), *, ends: bool = False, head: bool = False
    ) -> Response:
        """Send a request and read the answer; status 0 where the connection ended without one.

        Args:
            raw: What is sent.
            split: Where it is cut into parts that are sent one by one.
            ends: Whether the client's side is closed behind it.
            head: Whether the answer has no body.

        Raises:
            Violation: nothing came in time, or it is no HTTP.
        """
        kept = self._socket is not None
        try:
            self._send(raw, split, ends=ends)
            return self._response(head=head)
        except (ConnectionError, EOFError):
            self.close()
            if kept:  # it may have been idle for too long; a new one says for certain
                return self.exchange(raw, split, ends=ends, head=head)
            return Response(0)
        except TimeoutError:
            self.close()  # what comes late would be taken for the next answer
            raise Violation(f"no answer within {PATIENCE:.0f} s") from None

    def _send(self, raw: bytes, split: tuple[int, ...], *, ends: bool) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._read = b""
        self._last = raw
        edges = [0, *(at for at in split if at < len(raw)), len(raw)]
        # A server that has answered and hung up is heard all the same.
        with contextlib.suppress(ConnectionError):
            for start, end in pairwise(edges):
                self._socket.sendall(raw[start:end])
            if ends:
                self._end()

    def _end(self) -> None:
        assert self._socket is not None
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it has been reset: what it still holds is read all the same
                raise

    def quiet(self) -> bool:
        """Whether nothing came behind the last answer."""
        if self._socket is None:
            return True
        if self._read:
            return False
        self._socket.setblocking(False)
        try:
            return not self._socket.recv(1)
        except BlockingIOError:
            return True
        except ConnectionError:
            self.close()
            return True
        finally:
            if self._socket is not None:
                self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _response(self, *, head: bool) -> Response:
        status = 100
        while 100 <= status < 200 and status != 101:
            first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            protocol, _, rest = first.partition(" ")
            if protocol != "HTTP/1.1" or not rest[:3].isdigit():
                raise Violation(f"not HTTP: {first!r}")
            status = int(rest[:3])
        pairs = [line.partition(":") for line in lines if line]
        response = Response(status, {name.lower(): value.strip() for name, _, value in pairs})
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            response.body = self._until(b"\n\n")
            self.close()
        elif not head and status != 204:
            response.body = self._body(response)
        if response.headers.get("connection", "") == "close":
            self.close()
        return response

    def _body(self, response: Response) -> bytes:
        if "content-length" in response.headers:
            return self._exactly(int(response.headers["content-length"]))
        raise Violation(f"an answer without a length: {response.headers}")

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._read:
            self._more()
        found, _, self._read = self._read.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more()
        found, self._read = self._read[:count], self._read[count:]
        return found

    def _more(self) -> None:
        assert self._socket is not None
        part = self._socket.recv(262_144)
        if not part:
            raise EOFError
        self._read += part
