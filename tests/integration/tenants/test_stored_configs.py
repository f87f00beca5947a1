from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, Field, SecretStr
from tests.stores import as_owner

from trunkline.audit.by import By
from trunkline.audit.record import Recorder
from trunkline.control_errors import PreconditionFailed, ToolsetNotFound, ValidationFailed
from trunkline.db import Database
from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants import hosted
from trunkline.tenants.config_reader import ConfigReader
from trunkline.tenants.configs import LARGEST_CONFIG, Configs
from trunkline.tenants.hosted import HostedToolset
from trunkline.tenants.model import Tenant
from trunkline.tenants.tenants import Tenants
from trunkline.toolsets.configurable import schema_of

CANARY = "canary-of-a-secret-token"
BY = By("user", "u1", "192.0.2.7")
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


class Weather(BaseModel):
    token: SecretStr
    other: SecretStr | None = None
    station: int = Field(1, ge=0)


MODELS: Mapping[str, type[BaseModel]] = {"weather": Weather}
HOSTED = [HostedToolset("weather", "Weather", "weather:server", schema_of(Weather)), HostedToolset("plain", "Plain")]


@pytest.fixture
def configs(settings: Settings, database: Database, redis: Redis) -> Configs:
    return Configs(settings, database, redis, Recorder(settings.secret_key))


@pytest.fixture
def reader(settings: Settings, database: Database, redis: Redis) -> ConfigReader:
    return ConfigReader(settings, database, redis, MODELS)


@pytest.fixture
async def acme(tenants: Tenants, database: Database) -> Tenant:
    await hosted.announce(database, HOSTED)
    await tenants.create("acme")
    await tenants.enable("acme", "plain")
    return await tenants.enable("acme", "weather")


@pytest.fixture
async def away() -> AsyncIterator[Database]:
    """A Postgres that is not there."""
    database = Database(NOWHERE)
    yield database
    await database.aclose()


def token_of(config: BaseModel | None) -> str:
    assert isinstance(config, Weather)
    return config.token.get_secret_value()


async def test_what_workers_host_is_what_there_is_to_switch_on(configs: Configs, database: Database) -> None:
    assert await configs.hosted() == ()
    await hosted.announce(database, HOSTED)
    await hosted.announce(database, [HostedToolset("plain", "A new title")])
    assert [(each.name, each.title, bool(each.schema)) for each in await configs.hosted()] == [
        ("plain", "A new title", False),
        ("weather", "Weather", True),
    ]


async def test_a_toolset_that_no_worker_has_hosted_for_a_week_is_not_listed(
    configs: Configs, database: Database
) -> None:
    await hosted.announce(database, HOSTED)
    await as_owner(
        configs_url(database), "UPDATE hosted_toolsets SET seen_at = now() - interval '8 days' WHERE name = 'plain'",
        task="catalog",
    )  # fmt: skip
    assert [each.name for each in await configs.hosted()] == ["weather"]


def configs_url(database: Database) -> str:
    return database._engine.url.render_as_string(hide_password=False).replace("+asyncpg", "")


async def test_workers_tell_again_once_postgres_is_back(
    database: Database, configs: Configs, away: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.Event()

    async def announce(_: Database, toolsets: list[HostedToolset]) -> None:
        if not told.is_set():
            told.set()
            raise Unavailable
        await original(database, toolsets)
        done.set()

    original, done = hosted.announce, asyncio.Event()
    monkeypatch.setattr(hosted, "announce", announce)
    monkeypatch.setattr(hosted, "TOLD_AGAIN", 0)
    telling = asyncio.create_task(hosted.keep_announcing(away, HOSTED))
    async with asyncio.timeout(15):
        await done.wait()
    telling.cancel()
    assert [each.name for each in await configs.hosted()] == ["plain", "weather"]


async def test_what_was_configured_is_read_without_its_secrets(configs: Configs, acme: Tenant) -> None:
    before = await configs.get(acme.id, "weather")
    assert (before.config, before.secrets, before.version) == ({}, (), 0)
    made = await configs.put(acme.id, "weather", {"token": CANARY, "station": 7}, BY)
    assert made == await configs.get(acme.id, "weather")
    assert (made.config, made.secrets) == ({"station": 7}, ("token",))
    assert CANARY not in str(made)


async def test_workers_read_it_with_its_secrets(
    configs: Configs, reader: ConfigReader, tenants: Tenants, acme: Tenant
) -> None:
    assert await reader.of(acme) == ()
    await configs.put(acme.id, "weather", {"token": CANARY, "station": 7}, BY)
    [config] = await reader.of(await tenants.get("acme"))
    assert token_of(config) == CANARY
    assert config.station == 7  # type: ignore[attr-defined]


async def test_a_secret_that_is_not_given_stays_and_null_takes_it_away(
    configs: Configs, reader: ConfigReader, tenants: Tenants, acme: Tenant
) -> None:
    await configs.put(acme.id, "weather", {"token": CANARY, "other": "x", "station": 7}, BY)
    kept = await configs.put(acme.id, "weather", {"station": 8, "other": None}, BY)
    assert (kept.config, kept.secrets) == ({"station": 8}, ("token",))
    [config] = await reader.of(await tenants.get("acme"))
    assert token_of(config) == CANARY
    with pytest.raises(ValidationFailed):
        await configs.put(acme.id, "weather", {"token": None}, BY)
    assert await configs.get(acme.id, "weather") == kept


async def test_taking_it_away_brings_the_defaults_back(
    configs: Configs, reader: ConfigReader, tenants: Tenants, acme: Tenant, redis: Redis
) -> None:
    await configs.put(acme.id, "weather", {"token": CANARY}, BY)
    configured = await tenants.get("acme")
    await configs.delete(acme.id, "weather", BY)
    assert (await tenants.get("acme")).configured == ()
    assert await reader.of(configured) == ()
    stored = await Snapshots(redis).get("config", f"{acme.id}:weather")
    assert stored is not None
    assert orjson.loads(stored)["secrets"] == {}


async def test_nothing_is_changed_that_somebody_else_has_changed_meanwhile(configs: Configs, acme: Tenant) -> None:
    first = await configs.put(acme.id, "weather", {"token": CANARY}, BY, if_version=0)
    second = await configs.put(acme.id, "weather", {"token": "other"}, BY, if_version=first.version)
    with pytest.raises(PreconditionFailed, match=f"has version {second.version} now"):
        await configs.put(acme.id, "weather", {"token": "third"}, BY, if_version=first.version)
    with pytest.raises(PreconditionFailed):
        await configs.delete(acme.id, "weather", BY, if_version=first.version)
    assert second.version > first.version > 0


@pytest.mark.parametrize("toolset", ["plain", "nowhere", "never-on"])
async def test_what_cannot_be_configured_is_said_to_be_not_there(
    configs: Configs, database: Database, acme: Tenant, toolset: str
) -> None:
    await hosted.announce(database, [HostedToolset("never-on", "", "", schema_of(Weather))])
    for attempt in (
        configs.get(acme.id, toolset),
        configs.put(acme.id, toolset, {"token": CANARY}, BY),
        configs.delete(acme.id, toolset, BY),
    ):
        with pytest.raises(ToolsetNotFound):
            await attempt


async def test_a_configuration_has_a_bound(configs: Configs, acme: Tenant) -> None:
    with pytest.raises(ValidationFailed, match="16384 bytes at most"):
        await configs.put(acme.id, "weather", {"token": "x" * LARGEST_CONFIG}, BY)


async def test_no_secret_is_in_clear_in_any_store_or_in_the_log(
    settings: Settings, configs: Configs, tenants: Tenants, acme: Tenant, redis: Redis
) -> None:
    await configs.put(acme.id, "weather", {"token": CANARY, "station": 7}, BY)
    [row] = await as_owner(
        settings.database_url, "SELECT t::text FROM tenant_toolsets t WHERE name = 'weather'", task="directory"
    )
    [event] = await as_owner(
        settings.database_url, "SELECT e::text, detail FROM audit_events e WHERE action = 'toolset.configure'",
        task="audit",
    )  # fmt: skip
    snapshots = [
        await Snapshots(redis).get(kind, name)
        for kind, name in (("config", f"{acme.id}:weather"), ("tenant", "acme"))
    ]
    assert all(snapshots)
    for kept in (str(row), str(event), *map(str, snapshots)):
        assert CANARY not in kept
    detail: dict[str, Any] = orjson.loads(event["detail"])
    assert (detail["fields"], detail["secrets_set"], detail["secrets_kept"]) == (["station"], ["token"], [])


async def test_it_is_read_with_postgres_away(
    settings: Settings, configs: Configs, tenants: Tenants, acme: Tenant, redis: Redis, away: Database
) -> None:
    await configs.put(acme.id, "weather", {"token": CANARY}, BY)
    reader = ConfigReader(settings, away, redis, MODELS)
    [config] = await reader.of(await tenants.get("acme"))
    assert token_of(config) == CANARY


async def test_it_is_read_from_postgres_where_redis_has_lost_it_and_put_back(
    configs: Configs, reader: ConfigReader, tenants: Tenants, acme: Tenant, redis: Redis
) -> None:
    await configs.put(acme.id, "weather", {"token": CANARY}, BY)
    name = redis.keys.snapshot("config", f"{acme.id}:weather")
    await redis.command("DEL", name)
    [config] = await reader.of(await tenants.get("acme"))
    assert token_of(config) == CANARY
    assert await redis.command("EXISTS", name) == 1


async def test_with_both_stores_away_what_is_known_is_used_and_the_rest_refused(
    settings: Settings, configs: Configs, tenants: Tenants, acme: Tenant, away: Database, redis: Redis
) -> None:
    await configs.put(acme.id, "weather", {"token": CANARY}, BY)
    tenant = await tenants.get("acme")
    lost = await Redis.connect(settings, "test")
    reader = ConfigReader(settings, away, lost, MODELS)
    await reader.of(tenant)
    await lost.aclose()
    assert [token_of(each) for each in await reader.of(tenant)] == [CANARY]
    with pytest.raises(Unavailable, match=r"^The configuration of toolset weather cannot be read now\.$"):
        await ConfigReader(settings, away, lost, MODELS).of(tenant)


async def test_a_secret_of_another_tenant_field_or_version_does_not_open(
    settings: Settings, configs: Configs, tenants: Tenants, acme: Tenant, database: Database, redis: Redis
) -> None:
    """Copied to another place of the database, it is of no use."""
    await tenants.create("other")
    await tenants.enable("other", "weather")
    await configs.put(acme.id, "weather", {"token": CANARY}, BY)
    other = await tenants.get("other")
    await configs.put(other.id, "weather", {"token": "mine"}, BY)
    stored = await Snapshots(redis).get("config", f"{acme.id}:weather")
    assert stored is not None
    fields = orjson.loads(stored)
    version = (await tenants.get("other")).configured[0][1] + 1
    sealed = fields["secrets"]["token"]
    for name, secrets in {
        f"{other.id}:weather": {"token": sealed},
        f"{acme.id}:weather": {"other": sealed, "token": sealed},
        f"{acme.id}:weather ": {"token": {**sealed, "v": sealed["v"] + 1}},
    }.items():
        tenant_id, _, toolset = name.strip().partition(":")
        version += 1
        body = orjson.dumps({**fields, "version": version, "secrets": secrets})
        await Snapshots(redis).put("config", name.strip(), version, body)
        with pytest.raises(Unavailable, match="cannot be read now"):
            await ConfigReader(settings, database, redis, MODELS).get(tenant_id, toolset, version)


async def test_a_configuration_that_does_not_fit_a_newer_model_is_told_without_its_values(
    settings: Settings, configs: Configs, tenants: Tenants, acme: Tenant, database: Database, redis: Redis
) -> None:
    class Stricter(BaseModel):
        token: int

    await configs.put(acme.id, "weather", {"token": CANARY}, BY)
    reader = ConfigReader(settings, database, redis, {"weather": Stricter})
    with pytest.raises(Unavailable, match="does not fit it") as refusal:
        await reader.of(await tenants.get("acme"))
    assert CANARY not in repr(refusal.value)


async def test_many_calls_at_once_read_it_once(
    settings: Settings, configs: Configs, tenants: Tenants, acme: Tenant, database: Database, redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await configs.put(acme.id, "weather", {"token": CANARY}, BY)
    tenant = await tenants.get("acme")
    reader = ConfigReader(settings, database, redis, MODELS)
    opened = 0
    original = reader._opened

    def counted(*arguments: Any) -> BaseModel:
        nonlocal opened
        opened += 1
        return original(*arguments)

    monkeypatch.setattr(reader, "_opened", counted)
    found = await asyncio.gather(*(reader.of(tenant) for _ in range(20)))
    assert opened == 1
    assert len({id(config) for [config] in found}) == 1
