"""A deployment as users have one: three API pods and three workers, and requests dealt to the pods in turn."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.acceptance.pods import Deployment
from tests.balancer import Balancer
from tests.stores import TestStores, open_directory

from trunkline.db import Database
from trunkline.settings import Settings, load_settings
from trunkline.streams.client import Redis
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants

REPLICAS = 3
"""Of API pods, and of workers."""
FAST = "100000"
"""Requests a second from one address to a public tenant: all of these clients have the same."""


@dataclass(frozen=True)
class Replicas:
    """What a client knows of it, and what runs."""

    slug: str
    key: str
    balancer: Balancer
    deployment: Deployment

    def url(self, path: str) -> str:
        """Where the tenant is reached, through the balancer."""
        return f"{self.balancer.url}/t/{self.slug}/{path}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@contextlib.contextmanager
def replicas(stores: TestStores, server: str, toolset: str, access: str = "key") -> Iterator[Replicas]:
    """All of it with one tenant, which has the toolset of that server on and no other, until the end of the block."""
    with open_directory() as directory, stores.fresh_database() as database_url, Balancer().listening() as balancer:
        settings = load_settings(
            environment="dev",
            database_url=database_url,
            redis_url=stores.redis_url,
            redis_prefix=f"test-{secrets.token_hex(6)}:",
            secret_key=secrets.token_hex(32),
            public_url=balancer.url,
            public_rate=FAST,
            public_burst=FAST,
            drain_delay=0,
        )
        deployment = Deployment(settings, directory, "")
        try:
            # In a thread: the loop of a test may be set in this one.
            with ThreadPoolExecutor(1) as threads:
                deployment.key = threads.submit(asyncio.run, _tenant(settings, toolset, access)).result()
                threads.submit(asyncio.run, deployment.start(REPLICAS, REPLICAS, "--server", server)).result()
            balancer.ports.extend(pod.port for pod in deployment.pods if pod.url)
            yield Replicas(toolset, deployment.key, balancer, deployment)
        finally:
            deployment.end()


async def _tenant(settings: Settings, slug: str, access: str) -> str:
    redis = await Redis.connect(settings, "test")
    database = Database(settings.database_url, process="test")
    try:
        tenants = Tenants(settings, database, redis)
        await tenants.create(slug)
        await tenants.set(slug, {"access": access})
        await tenants.enable(slug, slug)
        return (await Keys(settings, database, redis).issue(slug))[0]
    finally:
        await database.aclose()
        await redis.aclose()
