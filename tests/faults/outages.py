"""A Valkey that a test breaks and mends in the ways of which Redis breaks, and pods that reach it through a proxy."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx2
from faults.proxy import Proxy
from tests.stores import open_directory

from trunkline.dev.account import Account
from trunkline.dev.process import eventually, free_port
from trunkline.dev.programs import find_valkey
from trunkline.dev.valkey import Valkey
from trunkline.streams.connection import Connection

HEALING = 5.0
"""Seconds within which everything goes on after what was away is back."""
_NO_LIMIT = resource.RLIM_INFINITY
# A file that may not grow is to Valkey's write(2) what a full disk is: an error. The signal with it is one too many.
_WITHOUT_SIGNAL = "#!/bin/sh\ntrap '' XFSZ\nexec {program} \"$@\"\n"


@dataclass
class Server:
    """A Valkey of the test's own, with an append-only file."""

    valkey: Valkey
    url: str
    port: int

    async def ask(self, *command: str) -> Any:
        """What an operator asks of it, directly."""
        operator = await Connection.open(self.url, "operator")
        try:
            return await operator.send(*command)
        finally:
            operator.close()
            await operator.lost

    def stop(self) -> None:
        self._process.send_signal(SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(SIGCONT)

    def fill_disk(self, full: bool) -> None:
        """Let no file of it grow beyond what it is, or let them."""
        files = [file.stat().st_size for file in self.valkey.home.rglob("*") if file.is_file()]
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (max(files) if full else _NO_LIMIT, hard))

    @property
    def _process(self) -> Any:
        assert self.valkey.process is not None
        return self.valkey.process


@contextlib.contextmanager
def own_server() -> Iterator[Server]:
    """A Valkey until the end of the block; it runs as our own user, who else may not set its limits."""
    with open_directory() as path:
        program, wrapper = find_valkey(), path / "valkey"
        wrapper.write_text(_WITHOUT_SIGNAL.format(program=program.path))
        wrapper.chmod(0o700)
        ours = Account(os.geteuid(), os.getegid(), "", foreign=False)
        valkey = Valkey(replace(program, path=wrapper), path / "data", ours, path / "valkey.log", durable=True)
        password, port = secrets.token_hex(16), free_port()
        valkey.prepare(password)
        valkey.launch(port)
        assert valkey.process is not None
        try:
            assert eventually(valkey.ready, 20), valkey.log.read_text()
            yield Server(valkey, valkey.url(password), port)
        finally:
            valkey.process.send_signal(SIGCONT)
            valkey.stop()


@contextlib.asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    """A proxy to a port of this machine, until the end of the block."""
    proxy = Proxy("127.0.0.1", port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.aclose()


def at_port(url: str, port: int) -> str:
    """The same URL with another port."""
    parsed = httpx2.URL(url)
    return str(parsed.copy_with(port=port))


def is_clear_refusal(response: httpx2.Response) -> bool:
    """Whether a POST was refused as one that may be sent again: when, and in a sentence why."""
    return (
        response.status_code in {429, 503}
        and int(response.headers["retry-after"]) > 0
        and bool(response.json()["error"]["message"])
    )


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    """Ask until it is so; each question is a round trip, which is pause enough. Bounded by the caller."""
    while not await holds():
        pass
