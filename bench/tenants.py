"""What many tenants cost: memory, CPU and latency of a call with 10 tenants, and with 10,000 of which 10 or all call.

Each tenant has the bench's toolset on and one key; each call is another caller's. Every caller has called once before
anything is measured, so that what processes remember of it is in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uuid_utils import uuid7

from bench import TOOL, servers
from bench.clients import ModernSession
from bench.phases import SETTLE, quantile, spent
from bench.report import progress
from bench.servers import Server
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants import snapshot, tokens
from trunkline.tenants.announce import TENANT
from trunkline.tenants.key_options import claims_of
from trunkline.tenants.signing import SigningKey, signing_sealer
from trunkline.tenants.tables import KeyRow, TenantRow, ToolsetRow

AT_ONCE = 64
LARGE = 10_000
TABLES = ("tenants", "tenant_toolsets", "api_keys", "signing_keys")


@dataclass(frozen=True, slots=True)
class Tenant:
    """Where one tenant is called, and with what."""

    url: str
    key: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured with so many tenants, so many of which called."""

    tenants: int
    callers: int
    resident_mib: dict[str, float]
    """Resident memory after all had called, by role."""
    cpu_us: dict[str, float]
    """Microseconds of CPU per call under load, by role."""
    median_ms: float
    p99_ms: float

    @property
    def total_us(self) -> float:
        return sum(value for role, value in self.cpu_us.items() if role != "postgres")


class Traveller(ModernSession):
    """A client whose next call can be another tenant's, over the same connection."""

    def become(self, tenant: Tenant) -> None:
        parts = urlsplit(tenant.url)
        self._headers = f"host: {parts.netloc}\r\nauthorization: Bearer {tenant.key}\r\n"
        self._post_head = f"POST {parts.path} HTTP/1.1\r\n{self._headers}" + _JSON


_JSON = "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"


async def populate(server: Server, count: int) -> list[Tenant]:
    """So many tenants with a key each, written as the control plane would have."""
    settings = Settings(**{name.removeprefix("TRUNKLINE_").lower(): value for name, value in server.env.items()})  # type: ignore[arg-type]
    database = await asyncpg.connect(settings.database_url)
    try:
        # This deployment is thrown away: its owner writes what else takes a transaction for each tenant.
        for table in TABLES:
            await database.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        signing = await _signing_key(database, settings)
        now = datetime.now(UTC).replace(microsecond=0)
        version = int(now.timestamp() * 1000)
        tenants = [
            TenantRow(
                id=uuid7().hex, slug=f"t{number:05}", name="bench", access="key", status="active", version=version
            )
            for number in range(count)
        ]
        keys = [_key(tenant, signing.kid, now) for tenant in tenants]
        await database.copy_records_to_table(
            "tenants",
            columns=["id", "slug", "name", "version"],
            records=[(row.id, row.slug, row.name, version) for row in tenants],
        )
        await database.copy_records_to_table(
            "tenant_toolsets",
            columns=["tenant_id", "name", "position", "enabled"],
            records=[(row.id, "bench", 1, True) for row in tenants],
        )
        columns = ["id", "tenant_id", "name", "scopes", "tools", "kid", "created_at", "expires_at"]
        await database.copy_records_to_table(
            "api_keys", columns=columns, records=[tuple(getattr(key, column) for column in columns) for key in keys]
        )
        for table in TABLES:
            await database.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    finally:
        await database.close()
    await _put_into_redis(settings, tenants)
    return [
        Tenant(f"{settings.tenant_url(tenant.slug)}/mcp", tokens.sign(claims_of(settings, tenant, key), signing))
        for tenant, key in zip(tenants, keys, strict=True)
    ]


async def _put_into_redis(settings: Settings, tenants: Sequence[TenantRow]) -> None:
    """The copies that pods read first."""
    redis = await Redis.connect(settings, "bench")
    snapshots, toolset = Snapshots(redis), [ToolsetRow(name="bench", enabled=True)]
    for start in range(0, len(tenants), 500):
        part = tenants[start : start + 500]
        puts = (snapshots.put(TENANT, row.slug, row.version, snapshot.encode(row, toolset)) for row in part)
        await asyncio.gather(*puts)
    await redis.aclose()


def _key(tenant: TenantRow, kid: str, now: datetime) -> KeyRow:
    return KeyRow(
        id=f"key_{uuid7().hex}",
        tenant_id=tenant.id,
        name="bench",
        scopes=["mcp:call", "mcp:read"],
        tools=["*"],
        addresses=[],
        limits={},
        kid=kid,
        created_at=now,
        expires_at=now + timedelta(days=1),
    )


async def _signing_key(database: asyncpg.Connection, settings: Settings) -> SigningKey:
    row = await database.fetchrow("SELECT kid, private_key FROM signing_keys ORDER BY not_before DESC LIMIT 1")
    private = signing_sealer(settings).open(row["private_key"], "platform", row["kid"])
    return SigningKey(row["kid"], Ed25519PrivateKey.from_private_bytes(private))


async def measure(server: Server, count: int, callers: int, calls: int) -> Figures:
    """Populate, have each caller call once, then the load and one client alone."""
    began = time.monotonic()
    tenants = (await populate(server, count))[:: count // callers]
    progress(f"  {count:,} tenants made in {time.monotonic() - began:.0f} s")
    clients = [Traveller(tenants[0].url, "") for _ in range(AT_ONCE)]
    await _load(clients, tenants, max(callers, AT_ONCE * 20))
    await asyncio.sleep(2 * SETTLE)
    before = server.usage()
    made = await _load(clients, tenants, calls)
    await asyncio.sleep(SETTLE)
    after = server.usage()
    alone = [await _call(clients[0], tenants[number * 37 % callers]) for number in range(calls // 10)]
    for client in clients:
        client.close()
    milliseconds = sorted(value * 1e3 for value in alone)
    resident = {role: value / 2**20 for role, value in server.usage().resident.items()}
    cpu = spent(before.cpu, after.cpu, made / 1e6)
    return Figures(count, callers, resident, cpu, statistics.median(milliseconds), quantile(milliseconds, 0.99))


async def _load(clients: Sequence[Traveller], tenants: Sequence[Tenant], calls: int) -> int:
    """So many calls at least, each by the next tenant, from all clients at once."""
    each = -(-calls // len(clients))

    async def travel(first: int, client: Traveller) -> None:
        for number in range(each):
            await _call(client, tenants[(number * len(clients) + first) % len(tenants)])

    await asyncio.gather(*(travel(first, client) for first, client in enumerate(clients)))
    return each * len(clients)


async def _call(client: Traveller, tenant: Tenant) -> float:
    client.become(tenant)
    return await client.call(TOOL, "a tenant of many says so")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/tenants", description=__doc__)
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--many", type=int, default=LARGE)
    parser.add_argument("--calls", type=int, default=6_400, help="calls under load; a tenth as many alone")
    parser.add_argument("--rounds", type=int, default=1, help="of all three, each on fresh servers")
    options = parser.parse_args(arguments)
    sides = ((options.few, options.few), (options.many, options.few), (options.many, options.many))
    rounds: list[list[Figures]] = []
    for number in range(options.rounds):
        rounds.append([])
        for count, callers in sides:
            progress(f"round {number + 1} of {options.rounds}, {callers:,} of {count:,} tenants call")
            with servers.trunkline() as server:
                rounds[-1].append(uvloop.run(measure(server, count, callers, options.calls)))
    _print(rounds)
    return 0


def _print(rounds: Sequence[Sequence[Figures]]) -> None:
    titles = [
        f"{each.tenants:,} tenants" if each.tenants == each.callers else f"{each.callers:,} of {each.tenants:,}"
        for each in rounds[0]
    ]
    print(f"| figure | {' | '.join(titles)} | ratios |\n|---|{'---:|' * (len(titles) + 1)}")
    rows = {
        "CPU per call under load, us": lambda each: each.total_us,
        "latency alone, median, ms": lambda each: each.median_ms,
        "latency alone, p99, ms": lambda each: each.p99_ms,
        **{
            f"memory of {role}, MiB": lambda each, role=role: each.resident_mib[role]
            for role in ("api", "worker", "redis")
        },
    }
    for name, value in rows.items():
        medians = [statistics.median(map(value, side)) for side in zip(*rounds, strict=True)]
        ratios = ", ".join(f"{each / medians[0]:.2f}" for each in medians[1:])
        print(f"| {name} | {' | '.join(f'{each:.2f}' for each in medians)} | {ratios} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
