"""A stream without a socket: what it writes is kept by a client that reads or does not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from trunkline.api.auth import Identity
from trunkline.api.connection import Protocol
from trunkline.api.stream import Stream
from trunkline.envelope import Accepted, Delivery
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.tenants.model import Limits, Tenant, public_principal

TENANT = Tenant("0" * 32, "acme", "Acme", "public", "active", Limits(10.0, 20, 5, 7), (), 1)
SESSION = "5" * 32


class Client:
    """The connection, and a client that reads or does not."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.keeps_up = True
        self.written: list[bytes] = []
        self._reads = asyncio.Event()

    @property
    def unread(self) -> int:
        return 1000

    def write_chunk(self, data: bytes) -> None:
        self.written.append(data)

    async def drained(self) -> None:
        await self._reads.wait()

    def read(self) -> None:
        self.keeps_up = True
        self._reads.set()

    @property
    def offsets(self) -> list[int]:
        text = b"".join(self.written).decode()
        return [int(line.rpartition(".")[2]) for line in text.splitlines() if line.startswith("id: ")]


def open_stream(client: Client, last: int = 0, session: str = SESSION, **settings: Any) -> Stream:
    identity = Identity.of(TENANT, public_principal(TENANT))
    limits = Settings(environment="dev", **settings)
    return Stream(identity, session, last, cast("Protocol", client), limits, Metrics("api"))


def hold(stream: Stream, *arrived: Delivery | Accepted) -> None:
    stream.hold_back()
    for each in arrived:
        stream.keep(each)


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
