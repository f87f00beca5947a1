"""Postgres and Redis for one machine: those whose URLs are given, else embedded ones that live as long as we do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trunkline.dev.data import DataDirectory
from trunkline.dev.postgres import Postgres
from trunkline.dev.process import eventually, free_port, last_words
from trunkline.dev.programs import find_postgres, find_valkey, readable_by
from trunkline.dev.valkey import Valkey
from trunkline.errors import StartRefused

_PATIENCE = 60.0
"""Seconds a store gets until it answers: after a crash it recovers first."""
_ATTEMPTS = 3
"""Somebody else may take a free port between our looking and the store's listening."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Stores:
    """Two stores that answer."""

    database_url: str
    redis_url: str
    embedded: tuple[Postgres | Valkey, ...] = ()
    """Those that we started."""

    def loss(self) -> str | None:
        """A sentence on the first embedded store that has ended by itself; None while all run."""
        for store in self.embedded:
            if store.process is not None and store.process.poll() is not None:
                return f"{store.title} ended by itself ({last_words(store.log)}); its log is {store.log}."
        return None


@contextlib.contextmanager
def running_stores(
    data: DataDirectory,
    *,
    database_url: str = "",
    redis_url: str = "",
    durable: bool = True,
    report: Report = lambda sentence: None,
) -> Iterator[Stores]:
    """Stores for the length of the block, in a data directory that the caller holds the lock of.

    A URL that is given is used as it is. What is started here listens on 127.0.0.1 alone, wants a password, keeps its
    data and its port from start to start, and ends with the block, or, on Linux, with this process, however it ends.
    `durable` off is for tests: faster, and a power cut may take the data. Call it from the main thread.

    Raises:
        StartRefused: a store cannot be started; the sentence says why.
    """
    embedded: list[Postgres | Valkey] = []
    if not database_url:
        program = find_postgres()
        home, account = data.store_home(program.data_name)
        log = data.logs / "postgres.log"
        embedded.append(Postgres(readable_by(program, account), home, account, log, durable=durable))
    if not redis_url:
        program = find_valkey()
        home, account = data.store_home(program.data_name)
        log = data.logs / f"{program.engine}.log"
        embedded.append(Valkey(readable_by(program, account), home, account, log, durable=durable))
    with contextlib.ExitStack() as stack:
        for store in embedded:
            stack.callback(store.stop)
            _start(store, data)
        for store in embedded:
            _await(store, data)
            report(f"{store.title} is up")
        for store in embedded:
            if isinstance(store, Postgres):
                database_url = store.url(data.secret("postgres"))
            else:
                redis_url = store.url(data.secret("redis"))
        yield Stores(database_url, redis_url, tuple(embedded))


def _start(store: Postgres | Valkey, data: DataDirectory) -> None:
    name = "postgres" if isinstance(store, Postgres) else "redis"
    try:
        store.prepare(data.secret(name))
        _launch(store, data, name)
    except OSError as error:
        raise StartRefused(f"{store.title} cannot be started in {store.home}: {error}.") from error


def _launch(store: Postgres | Valkey, data: DataDirectory, name: str) -> None:
    """Start on the port of last time if it is free, so that whoever still knows it finds the store again."""
    ports = data.read_private("ports.json")
    before = ports.get(name)
    ports[name] = port = free_port(before if isinstance(before, int) else 0)
    store.launch(port)
    data.write_private("ports.json", ports)


def _await(store: Postgres | Valkey, data: DataDirectory) -> None:
    name = "postgres" if isinstance(store, Postgres) else "redis"
    for attempt in range(1, _ATTEMPTS + 1):
        eventually(lambda: store.ready() or _ended(store), _PATIENCE)
        if store.ready():
            return
        if not _ended(store):
            raise StartRefused(f"{store.title} did not answer within {_PATIENCE:.0f} s; its log is {store.log}.")
        if attempt < _ATTEMPTS and "in use" in store.log.read_text(errors="replace")[-2000:]:
            _launch(store, data, name)
            continue
        break
    raise StartRefused(f"{store.title} did not start: {last_words(store.log)}. Its log is {store.log}.")


def _ended(store: Postgres | Valkey) -> bool:
    return store.process is None or store.process.poll() is not None
