"""A rig: one deployment of real processes for one scenario, and everything that the scenario does to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from faults import EFFECTS_VARIABLE, SERVER, TOOLSET, effects, front
from faults.client import Client
from faults.effects import Effects
from faults.ledger import TRANSPORTS, Ledger, Transport
from faults.pods import Pod, ScenarioError, end_all, start
from faults.stores import OwnStore, own_stores
from faults.transports import CLIENTS
from faults.wire import Pool
from trunkline.db import Database
from trunkline.dev.process import free_port
from trunkline.schema import migrate
from trunkline.settings import Settings, load_settings
from trunkline.streams.client import Redis
from trunkline.streams.keys import Keys
from trunkline.tenants.keys import Keys as ApiKeys
from trunkline.tenants.tenants import Tenants

if TYPE_CHECKING:
    from faults.proxy import Proxy


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant that clients call as."""

    slug: str
    id: str
    key: str


@dataclass
class Rig:
    """What a scenario works with. Made by `rigged`; no pod runs until `start`.

    Everything that starts a process is called from the main thread, which is the event loop's.
    """

    directory: Path
    seed: int
    settings: Settings
    """Of all pods; the stores' URLs in it are the direct ones. Change them with `configure` before `start`."""
    effects: Effects
    postgres: OwnStore | None = None
    """The rig's own; None where the stores are shared with others and must not be touched."""
    redis_store: OwnStore | None = None
    pods: list[Pod] = field(default_factory=list)
    """All that were ever started."""
    accounts: dict[str, Account] = field(default_factory=dict)
    transports: Sequence[Transport] = TRANSPORTS
    """What clients speak, one after the other."""
    ledger: Ledger = field(default_factory=Ledger)
    """Books of all clients."""
    clients: list[Client] = field(default_factory=list)
    pool: Pool = field(default_factory=Pool)
    random: random.Random = field(init=False)
    """The only source of chance in a scenario."""
    front: str = ""
    """nginx's URL; empty where it is not installed or not asked for."""
    redis: Redis = field(init=False)
    """The harness's own way to Redis, past all proxies."""
    database: Database = field(init=False)
    baseline: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Descriptors and bytes of each pod by its pid, when `remember` was called."""
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    """Ended, last first, when the scenario has."""
    _turns: Iterator[Transport] = field(init=False)
    _places: dict[str, list[Pod]] = field(default_factory=lambda: {"api": [], "worker": []})

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._turns = itertools.cycle(self.transports)

    # What it is made of.

    @property
    def keys(self) -> Keys:
        """The names of keys in Redis, as the pods have them."""
        return Keys(self.settings)

    def configure(self, **changes: object) -> None:
        """Change settings of the pods that are started from now on."""
        given = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        self.settings = load_settings(**(given | changes))

    async def start(self, apis: int = 3, workers: int = 3, *, nginx: bool = False, **changes: object) -> None:
        """Make the tenant `demo`, start so many pods, and wait until they see each other.

        Args:
            apis: API pods.
            workers: Workers, each hosting `faults.tools`.
            nginx: Whether to put nginx in front, where it is installed.
            changes: Settings of these pods alone.
        """
        if "demo" not in self.accounts:
            await self.tenant("demo")
        for _ in range(apis):
            self._start("api", 0, changes)
        for _ in range(workers):
            self._start("worker", 0, changes)
        for pod in (*self.workers, *self.apis):
            await pod.ready(len(self.workers) if pod.kind == "api" else 0)
        if nginx and not self.front and front.find_nginx():
            self.front = self.stack.enter_context(front.nginx(self.directory, [pod.port for pod in self.apis]))

    @property
    def apis(self) -> list[Pod]:
        """The API pods that are meant to run, the dead whose place nobody took included."""
        return self._places["api"]

    @property
    def workers(self) -> list[Pod]:
        """The workers that are meant to run, the dead included."""
        return self._places["worker"]

    @property
    def urls(self) -> list[str]:
        """The API pods', which stay when one is started anew; nginx's first where there is one."""
        return [*([self.front] if self.front else []), *(pod.url for pod in self.apis)]

    async def api(self, port: int = 0, **changes: object) -> Pod:
        """Start one API pod more, with settings of its own, and wait until it is ready."""
        pod = self._start("api", port, changes)
        await pod.ready()
        return pod

    async def worker(self, *options: str, module: str = "trunkline", **changes: object) -> Pod:
        """Start one worker more, with settings of its own, and wait until it claims calls."""
        pod = self._start("worker", 0, changes, options, module)
        await pod.ready()
        return pod

    async def restart(self, pod: Pod, *, ready: bool = True) -> Pod:
        """Start anew, as a supervisor does, what has ended: same place, settings and port."""
        assert pod.restart is not None
        begun = pod.restart()
        if ready:
            await begun.ready()
        return begun

    def forget(self, pod: Pod) -> None:
        """Nobody expects this one to run any more."""
        self._places[pod.kind].remove(pod)

    def _start(
        self,
        kind: str,
        port: int,
        changes: Mapping[str, object],
        options: tuple[str, ...] = (),
        module: str = "trunkline",
        place: int = -1,
    ) -> Pod:
        number = port or free_port()
        arguments = [module, kind, *options]
        arguments += ["--port", str(number)] if kind == "api" else ["--server", SERVER]
        log = self.directory / f"{kind}-{len(self.pods)}.log"
        settings = self.settings.model_copy(update=dict(changes))
        pod = start(kind, arguments, settings, log, {EFFECTS_VARIABLE: self.effects.address})
        if place < 0:
            place = len(self._places[kind])
            self._places[kind].append(pod)
        else:
            self._places[kind][place] = pod
        pod.restart = lambda: self._start(
            kind, number if kind == "api" else 0, changes, options, module, self._places[kind].index(pod)
        )
        self.pods.append(pod)
        return pod

    # Who calls.

    async def tenant(self, slug: str, **limits: str) -> Account:
        """Make a tenant with both toolsets on and a key; `limits` as `trunkline tenant set` takes them."""
        tenants = Tenants(self.settings, self.database, self.redis)
        tenant = await tenants.create(slug)
        for toolset in ("demo", TOOLSET):
            await tenants.enable(slug, toolset)
        if limits:
            await tenants.set(slug, limits)
        key, _ = await ApiKeys(self.settings, self.database, self.redis).issue(slug)
        self.accounts[slug] = Account(slug, tenant.id, key)
        return self.accounts[slug]

    async def client(
        self,
        slug: str = "demo",
        urls: list[str] | None = None,
        stall: float = 40.0,
        transport: Transport | None = None,
    ) -> Client:
        """A client that is ready to call, whose books are the rig's.

        By default it uses all API pods (and nginx), beginning with one by chance, and speaks what is next in turn.
        """
        chosen = list(urls or self.urls)
        if urls is None:
            self.random.shuffle(chosen)
        chance = random.Random(self.random.random())
        client = CLIENTS[transport or self.next_transport()](
            self.ledger, self.accounts[slug], chosen, chance, self.pool,
            call_timeout=self.settings.call_timeout, uncertain=frozenset({self.front} - {""}), stall=stall,
        )  # fmt: skip
        self.clients.append(client)
        await client.open()
        return client

    async def many_clients(
        self, count: int, slug: str = "demo", urls: list[str] | None = None, stall: float = 40.0
    ) -> list[Client]:
        """So many clients, opened thirty at a time."""
        turns = asyncio.Semaphore(30)

        async def one(transport: Transport) -> Client:
            async with turns:
                return await self.client(slug, urls, stall, transport)

        return await asyncio.gather(*(one(self.next_transport()) for _ in range(count)))

    def next_transport(self) -> Transport:
        """What the next client speaks."""
        return next(self._turns)

    # What lies between.

    async def redis_proxy(self) -> tuple[Proxy, str]:
        """A proxy in front of Redis, and the `redis_url` for the pods that are to go through it."""
        return await self._proxy("redis_url")

    async def postgres_proxy(self) -> tuple[Proxy, str]:
        """A proxy in front of Postgres, and the `database_url` for the pods that are to go through it."""
        return await self._proxy("database_url")

    async def _proxy(self, setting: str) -> tuple[Proxy, str]:
        from faults.proxy import Proxy

        before, _, rest = str(getattr(self.settings, setting)).rpartition(":")
        port, slash, name = rest.partition("/")
        proxy = Proxy("127.0.0.1", int(port))
        url = f"{before}:{await proxy.start()}{slash}{name}"
        self.stack.push_async_callback(proxy.aclose)
        return proxy, url

    # What is looked at afterwards.

    def remember(self) -> None:
        """Take the descriptors and memory of the pods that run as what they come back to."""
        for pod in (*self.apis, *self.workers):
            if pod.running:
                self.baseline[pod.pid] = pod.usage()

    async def hang_up(self) -> None:
        """Close all clients; their sessions stay until they expire."""
        await asyncio.gather(*(client.close() for client in self.clients))
        self.clients.clear()
        self.pool.close()


@contextlib.asynccontextmanager
async def rigged(
    directory: Path, seed: int, shared: Settings | None = None, transports: Sequence[Transport] = TRANSPORTS
) -> AsyncIterator[Rig]:
    """A rig, until the end of the block; on stores of its own, or on those that `shared` names.

    Args:
        directory: An empty one that every user may pass through.
        seed: Of everything that happens by chance.
        shared: Settings with a migrated database and a Redis prefix that are this rig's alone.
        transports: What its clients speak, in turn.
    """
    async with contextlib.AsyncExitStack() as stack:
        postgres = redis = None
        if shared is None:
            (directory / "stores").mkdir()
            (directory / "stores").chmod(0o711)
            postgres, redis = stack.enter_context(own_stores(directory / "stores"))
            await asyncio.to_thread(migrate, postgres.url)
            shared = load_settings(
                environment="dev",
                database_url=postgres.url,
                redis_url=redis.url,
                secret_key=secrets.token_hex(32),
                public_url="http://127.0.0.1:8000",
            )
        service = await stack.enter_async_context(effects.running(directory))
        rig = Rig(directory, seed, shared, service, postgres, redis, transports=transports)
        rig.database = Database(shared.database_url, process="faults")
        stack.push_async_callback(rig.database.aclose)
        rig.redis = await Redis.connect(shared, "faults")
        stack.push_async_callback(rig.redis.aclose)
        stack.callback(lambda: end_all(rig.pods))
        await stack.enter_async_context(rig.stack)
        stack.push_async_callback(rig.hang_up)
        yield rig


def require_own(store: OwnStore | None) -> OwnStore:
    """The store, where the rig has one of its own.

    Raises:
        ScenarioError: it is shared with others.
    """
    if store is None:
        raise ScenarioError("This scenario takes stores away, so it needs stores of its own.")
    return store
