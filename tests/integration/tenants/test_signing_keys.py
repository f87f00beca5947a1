"""Signing keys are retired when nothing hangs on them, whatever is being signed at that moment."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta

import pytest
from pydantic import SecretStr
from tests.stores import as_owner

from trunkline.audit.by import CLI
from trunkline.audit.record import Recorder
from trunkline.db import Database
from trunkline.errors import Conflict, StartRefused
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants.key_options import Wanted
from trunkline.tenants.keys import Keys
from trunkline.tenants.rotation import SigningKeys
from trunkline.tenants.tenants import DIRECTORY, Tenants, read
from trunkline.tenants.verify import Verifier

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


async def test_where_the_secret_was_lost_keys_stay_good_and_a_new_signing_key_signs_new_ones(
    settings: Settings, tenants: Tenants, keys: Keys, database: Database, redis: Redis, verifier: Verifier
) -> None:
    await tenants.create("acme")
    before, _ = await keys.issue("acme")
    settings = settings.model_copy(update={"secret_key": SecretStr(secrets.token_hex(32))})
    await verifier.authenticate(before, "acme")
    keys = Keys(settings, database, redis)
    with pytest.raises(StartRefused, match="SECRET_KEY"):
        await keys.issue("acme")
    await SigningKeys(settings, database, redis, Recorder(settings.secret_key)).rotate(ahead=timedelta(0))
    after, _ = await keys.issue("acme")
    await verifier.refresh()  # which pods do when they hear of it
    for token in (before, after):
        assert verifier.verify(token, "acme").slug == "acme"
