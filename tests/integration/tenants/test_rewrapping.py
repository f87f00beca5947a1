"""The root of encryption is changed under running pods, and nothing is lost when the one before is taken away."""

from __future__ import annotations

import secrets
from datetime import timedelta

import pytest
from pydantic import BaseModel, SecretStr
from tests.roots import rooted

from trunkline.audit.by import CLI, PLATFORM, By
from trunkline.audit.record import Recorder
from trunkline.audit.signing import CheckpointSigner, HeadSealer
from trunkline.audit.verify import verify
from trunkline.db import Database
from trunkline.errors import StartRefused, Unavailable
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants import hosted
from trunkline.tenants.config_reader import ConfigReader
from trunkline.tenants.configs import Configs
from trunkline.tenants.hosted import HostedToolset
from trunkline.tenants.keys import Keys
from trunkline.tenants.model import Tenant
from trunkline.tenants.rewrapping import Rewrapped, Rewrapping
from trunkline.tenants.rotation import SigningKeys
from trunkline.tenants.tenants import Tenants
from trunkline.toolsets.configurable import schema_of

BY = By("user", "u1", "192.0.2.7")


class Weather(BaseModel):
    token: SecretStr


@pytest.fixture
async def acme(tenants: Tenants, database: Database) -> Tenant:
    await hosted.announce(database, [HostedToolset("weather", "Weather", "", schema_of(Weather))])
    await tenants.create("idle")
    await tenants.create("acme")
    return await tenants.enable("acme", "weather")


async def token_of(settings: Settings, database: Database, redis: Redis, tenants: Tenants) -> str:
    """What a worker with these settings, which remembers nothing, opens of the configuration."""
    tenant = await tenants.get("acme")
    (config,) = await ConfigReader(settings, database, redis, {"weather": Weather}).of(tenant)
    assert isinstance(config, Weather)
    return config.token.get_secret_value()


async def test_the_root_is_changed_and_nothing_is_lost_when_the_one_before_goes(
    settings: Settings, database: Database, redis: Redis, tenants: Tenants, acme: Tenant
) -> None:
    old, new = settings.secret_key.get_secret_value(), secrets.token_hex(32)
    before, next_known, changed, after = (
        rooted(settings, old), rooted(settings, old, new), rooted(settings, new, old), rooted(settings, new),
    )  # fmt: skip

    async def configure(by: Settings, token: str) -> None:
        configs = Configs(by, database, redis, Recorder(by.root))
        await configs.put(acme.id, "weather", {"token": token}, BY)

    await Keys(before, database, redis).issue("acme")
    await configure(before, "first")

    # Pods of the first step and of the second run side by side: what one seals, the other opens.
    assert await token_of(changed, database, redis, tenants) == "first"
    await Keys(changed, database, redis).issue("acme")
    await configure(changed, "second")
    assert await token_of(next_known, database, redis, tenants) == "second"
    await Keys(next_known, database, redis).issue("acme")
    with pytest.raises(Unavailable):
        await token_of(before, database, redis, tenants)
    await configure(next_known, "third")

    rewrapping = Rewrapping(changed, database, redis)
    assert await rewrapping.run() == Rewrapped(signing_keys=1, secrets=1, logs=2)
    assert await rewrapping.run() == Rewrapped(), "what is done is done"

    assert await token_of(after, database, redis, tenants) == "third"
    await Keys(after, database, redis).issue("acme")
    await SigningKeys(after, database, redis, Recorder(after.root)).rotate(ahead=timedelta(0))
    with pytest.raises(StartRefused, match="SECRET_KEY"):
        await Keys(before, database, redis).issue("acme")
    for tenant in (acme.id, (await tenants.get("idle")).id, PLATFORM):
        signers = CheckpointSigner(after.root).signers()
        report = await verify(database, tenant, HeadSealer(after.root), signers, None)
        assert report.findings == (), tenant


async def test_what_no_root_opens_is_counted_and_left_as_it_is(
    settings: Settings, database: Database, redis: Redis, tenants: Tenants, acme: Tenant
) -> None:
    await Keys(settings, database, redis).issue("acme")
    lost = rooted(settings, secrets.token_hex(32))
    done = await Rewrapping(lost, database, redis).run(CLI)
    assert (done.signing_keys, done.unreadable) == (0, 1)
