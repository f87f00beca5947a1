"""Postgres and Redis of a scenario's own, as durable as production's, that go away and come back as they are told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

from faults.pods import PATIENCE, until
from trunkline.dev.data import DataDirectory
from trunkline.dev.postgres import Postgres
from trunkline.dev.stores import running_stores
from trunkline.dev.valkey import Valkey


class OwnStore:
    """One store process, on data and a port that stay."""

    def __init__(self, store: Postgres | Valkey, url: str) -> None:
        self.store = store
        self.url = url

    @property
    def port(self) -> int:
        """Where it listens, running or not."""
        return int(self.url.rpartition(":")[2].partition("/")[0])

    @property
    def pid(self) -> int:
        """The server's process, for signals such as SIGSTOP."""
        assert self.store.process is not None
        return self.store.process.pid

    def kill(self) -> None:
        """End it as a crash does; what it has written to its files stays. Postgres' children notice by themselves."""
        assert self.store.process is not None
        self.store.process.send_signal(SIGKILL)
        self.store.process.wait(PATIENCE)

    def stop(self) -> None:
        """Shut it down in order."""
        self.store.stop()

    async def come_back(self) -> None:
        """Start it on the same data and port, and wait until it answers; call it from the main thread."""
        self.store.launch(self.port)
        await until(self.store.ready, PATIENCE, f"{self.store.title} to answer again; its log is {self.store.log}")


@contextlib.contextmanager
def own_stores(directory: Path) -> Iterator[tuple[OwnStore, OwnStore]]:
    """An empty Postgres and a Redis with an append-only file, in an empty directory that others can pass."""
    data = DataDirectory(directory)
    with data.locked(), running_stores(data) as stores:
        postgres = next(each for each in stores.embedded if isinstance(each, Postgres))
        valkey = next(each for each in stores.embedded if isinstance(each, Valkey))
        yield OwnStore(postgres, stores.database_url), OwnStore(valkey, stores.redis_url)
