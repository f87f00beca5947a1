"""`trunkline dev`: stores, schema, demo tenant, API and workers, up in this order and down in the reverse one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from trunkline.dev.children import Child, await_ready, end_all
from trunkline.dev.console import Followed, say, step
from trunkline.dev.data import DataDirectory
from trunkline.dev.process import free_port, port_is_free
from trunkline.dev.servers import NamesOfServers, names_of_servers
from trunkline.dev.stores import Stores, running_stores
from trunkline.errors import StartRefused, TrunklineError
from trunkline.settings import Settings, load_settings, with_files
from trunkline.snippets import Address, describe

TENANT = "demo"
_POLL = 0.1
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a person may ask for, not a default
"""Where to reach ourselves when we listen on all addresses."""


def dev(
    host: str = "127.0.0.1",
    port: int = 8000,
    data: Path = Path(".trunkline"),
    workers: int = 1,
    servers: tuple[str, ...] = (),
) -> None:
    """Run the whole platform on this machine until SIGINT or SIGTERM; both are an orderly end, not an error.

    When ready, prints how to connect, and writes the same to `data`/dev.json. A worker that ends is started again.

    Raises:
        StartRefused: something that it needs is missing or taken; nothing is left running.
        TrunklineError: the API or a store ended by itself; everything else was stopped.
    """
    started = time.monotonic()
    port = port or free_port()
    if not port_is_free(host, port):
        raise StartRefused(f"Port {port} is in use; stop what listens there, or choose another with --port.")
    directory = DataDirectory(data)
    with _signals() as stop, directory.locked(), names_of_servers(servers) as names, _stores(directory) as stores:
        platform = _configure(directory, stores, host, port, servers)
        key = _prepare(platform, names)
        if stop.wanted:
            return
        with _processes(platform, workers, stop) as children:
            with step(f"API{' and workers' if workers else ''}"):
                probe = _EVERYWHERE.get(host, host)
                ready = await_ready(probe, port, children, workers, lambda: stop.wanted)
            if ready:
                _announce(platform, key)
                say(f"Ready after {time.monotonic() - started:.1f} s.")
                _watch(stores, children, stop)


@dataclass
class _Stop:
    """What signals ask for: an end, and, from the second one on, an end at once."""

    signals: int = 0

    @property
    def wanted(self) -> bool:
        return self.signals > 0

    @property
    def urgent(self) -> bool:
        return self.signals > 1


@dataclass(frozen=True)
class _Platform:
    """One configuration, as this process and as its children read it."""

    settings: Settings
    env: dict[str, str]
    """Every variable with which further processes join."""
    data: DataDirectory
    arguments: tuple[str, ...]
    """Of `trunkline api`."""


@contextlib.contextmanager
def _signals() -> Iterator[_Stop]:
    """Count SIGINT and SIGTERM instead of dying of them, so that the end has the order that we want."""
    stop = _Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.signals += 1

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _stores(data: DataDirectory) -> Iterator[Stores]:
    given = with_files(os.environ)
    database_url = given.get("TRUNKLINE_DATABASE_URL", "")
    redis_url = given.get("TRUNKLINE_REDIS_URL", "")
    with contextlib.ExitStack() as stack:
        with step("Postgres and Redis"):
            stores = stack.enter_context(running_stores(data, database_url=database_url, redis_url=redis_url))
        yield stores


def _configure(data: DataDirectory, stores: Stores, host: str, port: int, servers: tuple[str, ...]) -> _Platform:
    """Ours where we know better, the environment's everywhere else."""
    variables = {f"TRUNKLINE_{field.upper()}": field for field in Settings.model_fields}
    env = {name: value for name, value in with_files(os.environ).items() if name in variables and value}
    if host in _EVERYWHERE:
        env.setdefault("TRUNKLINE_ALLOWED_HOSTS", "*")
    reached = _EVERYWHERE.get(host, host)
    env.setdefault("TRUNKLINE_PUBLIC_URL", f"http://{f'[{reached}]' if ':' in reached else reached}:{port}")
    env.setdefault("TRUNKLINE_SECRET_KEY", data.secret("secret_key"))
    env.setdefault("TRUNKLINE_SIGNUP", "open")
    env.setdefault("TRUNKLINE_DRAIN_DELAY", "0")  # no proxy has to notice that the pod stops
    hosted = (*env.get("TRUNKLINE_SERVERS", "").split(","), *servers)
    env["TRUNKLINE_SERVERS"] = ",".join(dict.fromkeys(server.strip() for server in hosted if server.strip()))
    env["TRUNKLINE_ENVIRONMENT"] = "dev"
    env["TRUNKLINE_DATABASE_URL"] = stores.database_url
    env["TRUNKLINE_REDIS_URL"] = stores.redis_url
    settings = load_settings(**{variables[name]: value for name, value in env.items()})
    return _Platform(settings, env, data, ("api", "--host", host, "--port", str(port)))


def _prepare(platform: _Platform, names: NamesOfServers) -> str:
    """Schema, tenant, toolsets; gives the key that the demo tenant is called with."""
    with step("Database schema"):
        from trunkline.schema import migrate  # slow to import, and of no use to whoever is refused before

        migrate(platform.settings.database_url)
    with step(f"Tenant {TENANT}"):
        from trunkline.dev.demo import prepare_tenant

        known = platform.data.read_private("dev.json").get("api_key")
        return prepare_tenant(platform.settings, TENANT, names.result(), known if isinstance(known, str) else "")


@contextlib.contextmanager
def _processes(platform: _Platform, workers: int, stop: _Stop) -> Iterator[list[Child]]:
    env = os.environ | platform.env
    logs = platform.data.logs
    # A port of its own for metrics is the worker's: the API process has one to serve them on.
    children = [Child("API", platform.arguments, logs / "api.log", env | {"TRUNKLINE_METRICS_PORT": "0"})]
    for number in range(1, workers + 1):
        name = "worker" if workers == 1 else f"worker {number}"
        children.append(Child(name, ("worker",), logs / f"worker-{number}.log", env))
    try:
        for child in children:
            child.start()
        yield children
    finally:
        say("Stopping.")
        end_all(children, lambda: stop.urgent)


def _announce(platform: _Platform, key: str) -> None:
    """Tell programs, by dev.json, and people, by the terminal, in this order: who waits for one has the other."""
    base = platform.settings.tenant_url(TENANT)
    document: dict[str, object] = {
        "url": platform.settings.public_url,
        "tenant": TENANT,
        "api_key": key,
        "sse_url": f"{base}/sse",
        "mcp_url": f"{base}/mcp",
        "env": dict(platform.env),
    }
    platform.data.write_private("dev.json", document)
    address = Address(platform.settings.public_url, f"{base}/mcp", f"{base}/sse", key)
    sys.stdout.write("\n" + describe(address, platform.data.path / "dev.json"))
    sys.stdout.flush()


def _watch(stores: Stores, children: list[Child], stop: _Stop) -> None:
    """Until told to stop: start workers again, and give up with the API or a store.

    Raises:
        TrunklineError: the API or a store has ended; the sentence has its last words.
    """
    api, *workers = children
    debug = os.environ.get("TRUNKLINE_LOG_LEVEL") == "debug"
    followed = Followed([child.log for child in children] if debug else [])
    due: dict[Child, float] = {}
    while not stop.wanted:
        followed.show()
        if loss := stores.loss():
            raise TrunklineError(loss)
        if not api.running:
            raise TrunklineError(api.loss)
        for worker in workers:
            if not worker.running:
                _start_again(worker, due)
        time.sleep(_POLL)


def _start_again(worker: Child, due: dict[Child, float]) -> None:
    """Start a worker that has ended, after a pause that grows with each time."""
    now = time.monotonic()
    if worker not in due:
        pause = worker.pause_before_restart()
        due[worker] = now + pause
        say(f"{worker.loss} It is started again in {pause:g} s.")
    elif now >= due[worker]:
        del due[worker]
        worker.start()
