"""Signing keys are retired when nothing hangs on them, whatever is being signed at that moment."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.stores import as_owner

from trunkline.audit.by import CLI
from trunkline.audit.record import Recorder
from trunkline.db import Database
from trunkline.errors import Conflict
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants.key_options import Wanted
from trunkline.tenants.keys import Keys
from trunkline.tenants.rotation import SigningKeys
from trunkline.tenants.tenants import DIRECTORY, Tenants, read

LONG_AGO = "UPDATE signing_keys SET not_before = now() - interval '{}' WHERE kid = '{}'"


@pytest.fixture
def signing(settings: Settings, database: Database, redis: Redis) -> SigningKeys:
    return SigningKeys(settings, database, redis, Recorder(settings.secret_key))


async def test_a_signing_key_is_not_retired_while_an_api_key_is_being_signed_with_it(
    settings: Settings, database: Database, tenants: Tenants, keys: Keys, signing: SigningKeys
) -> None:
    await tenants.create("acme")
    await keys.ensure_signing_key()
    (old,) = await signing.list()
    async with database.transaction(DIRECTORY) as session:
        await keys.issue_in(session, await read(session, "acme"), Wanted.of(), CLI)
        new = await signing.rotate(ahead=timedelta(0))
        for kid, ago in ((old.kid, "1 day"), (new.kid, "1 hour")):
            await as_owner(settings.database_url, LONG_AGO.format(ago, kid), task="operator")
        retiring = asyncio.create_task(signing.retire(old.kid))
        done, _ = await asyncio.wait({retiring}, timeout=0.3)
        assert not done
    with pytest.raises(Conflict, match="1 API keys hang"):
        await retiring


async def test_a_signing_key_is_not_retired_when_the_next_one_has_only_just_begun_to_sign(
    settings: Settings, keys: Keys, signing: SigningKeys
) -> None:
    await keys.ensure_signing_key()
    (old,) = await signing.list()
    new = await signing.rotate(ahead=timedelta(0))
    with pytest.raises(Conflict, match="less than a minute"):
        await signing.retire(old.kid)
    for kid, ago in ((old.kid, "1 day"), (new.kid, "61 seconds")):
        await as_owner(settings.database_url, LONG_AGO.format(ago, kid), task="operator")
    assert (await signing.retire(old.kid)).state == "retired"
