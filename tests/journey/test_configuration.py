"""What a tenant configures reaches every worker's tools, and a call keeps what it began with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr
from tests.journey import weather
from tests.journey.conftest import Platform
from tests.journey.workshop import Gate
from tests.streamable import Client, call, client

from trunkline.audit.by import CLI
from trunkline.audit.record import Recorder
from trunkline.db import Database
from trunkline.tenants.configs import Configs
from trunkline.worker.run import WorkerProcess


@asynccontextmanager
async def configs(platform: Platform) -> AsyncIterator[Configs]:
    settings = platform.settings
    database = Database(settings.database_url, process="test")
    yield Configs(settings, database, platform.redis, Recorder(settings.secret_key))
    await database.aclose()


async def hosted(platform: Platform, configs: Configs, slug: str = "demo", **changes: object) -> WorkerProcess:
    """A worker that hosts the weather, once it has told so; switched on for a tenant."""
    worker = await platform.worker(weather.PATH, **changes)
    async with asyncio.timeout(15):
        while weather.NAME not in {each.name for each in await configs.hosted()}:
            pass
    await platform.tenants.enable(slug, weather.NAME)
    return worker


async def asked(one: Client, tool: str = "report", **arguments: object) -> dict[str, Any]:
    return await one.modern(call(1, tool, **arguments))


async def text(one: Client, tool: str = "report", **arguments: object) -> str:
    return str((await asked(one, tool, **arguments))["result"]["content"][0]["text"])


async def test_a_change_is_live_on_every_worker_within_a_second(platform: Platform) -> None:
    api = await platform.api()
    async with configs(platform) as made, client(api, key=platform.key) as one:
        for _ in range(2):
            await hosted(platform, made)
        tenant = await platform.tenants.get("demo")
        await made.put(tenant.id, weather.NAME, {"token": "first"}, CLI)
        loop = asyncio.get_running_loop()
        for token in ("second", "third"):
            told = stale = loop.time()
            await made.put(tenant.id, weather.NAME, {"token": token, "region": "no"}, CLI)
            in_a_row = 0
            async with asyncio.timeout(15):
                while in_a_row < 20:  # so many that both workers were asked
                    asked_at = loop.time()
                    answers = await asyncio.gather(*(text(one) for _ in range(4)))
                    fresh = set(answers) == {f"{token} no"}
                    in_a_row, stale = (in_a_row + 4, stale) if fresh else (0, asked_at)
            assert stale - told < 1


async def test_a_call_keeps_the_configuration_that_it_began_with(platform: Platform, gate: Gate) -> None:
    api = await platform.api()
    async with configs(platform) as made, client(api, key=platform.key) as one:
        await hosted(platform, made)
        tenant = await platform.tenants.get("demo")
        await made.put(tenant.id, weather.NAME, {"token": "old"}, CLI)
        running = asyncio.create_task(asked(one, "watch", gate=gate.name))
        await gate.until(inside=1)
        await made.put(tenant.id, weather.NAME, {"token": "new"}, CLI)
        async with asyncio.timeout(1):
            while await text(one) != "new eu":
                pass
        gate.open()
        assert [each["text"] for each in (await running)["result"]["content"]] == ["old eu", "old eu"]


async def test_a_tool_in_a_thread_has_it_too(platform: Platform) -> None:
    api = await platform.api()
    async with configs(platform) as made, client(api, key=platform.key) as one:
        await hosted(platform, made)
        tenant = await platform.tenants.get("demo")
        await made.put(tenant.id, weather.NAME, {"token": "quiet"}, CLI)
        async with asyncio.timeout(5):
            while await text(one, "measure") != "quiet eu":
                pass


async def test_a_tool_that_is_not_configured_says_what_is_missing(platform: Platform) -> None:
    api = await platform.api()
    async with configs(platform) as made, client(api, key=platform.key) as one:
        await hosted(platform, made)
        result = (await asked(one))["result"]
        assert result["isError"] is True
        assert "an administrator of the tenant has to set token" in result["content"][0]["text"]
        assert await text(one, "echo", text="still there") == "still there"


async def test_each_tenant_has_its_own(platform: Platform) -> None:
    api = await platform.api()
    await platform.tenants.create("other")
    await platform.tenants.enable("other", weather.NAME)
    key, _ = await platform.keys.issue("other")
    async with configs(platform) as made, client(api, key=platform.key) as one:
        await hosted(platform, made, concurrency=2)
        async with client(api, path="/t/other/mcp", key=key) as other:
            for slug in ("demo", "other"):
                tenant = await platform.tenants.get(slug)
                await made.put(tenant.id, weather.NAME, {"token": slug}, CLI)
            async with asyncio.timeout(5):
                while (await text(one), await text(other)) != ("demo eu", "other eu"):
                    pass
            for _ in range(10):
                found = await asyncio.gather(*(text(each, "measure") for each in (one, other, one, other)))
                assert found == ["demo eu", "other eu", "demo eu", "other eu"]
            await made.delete((await platform.tenants.get("other")).id, weather.NAME, CLI)
            async with asyncio.timeout(5):
                while (await asked(other))["result"]["isError"] is not True:
                    pass
            assert await text(one) == "demo eu"


async def test_a_configuration_that_cannot_be_read_is_an_error_and_the_tool_does_not_run(
    platform: Platform, gate: Gate
) -> None:
    api = await platform.api()
    async with configs(platform) as made, client(api, key=platform.key) as one:
        await hosted(platform, made)
        tenant = await platform.tenants.get("demo")
        await made.put(tenant.id, weather.NAME, {"token": "fine"}, CLI)
        async with asyncio.timeout(5):
            while (await asked(one))["result"]["isError"] is True:
                pass
        # Sealed under another root, as after a change of SECRET_KEY.
        other = platform.settings.model_copy(update={"secret_key": SecretStr("x" * 40)})
        database = Database(platform.settings.database_url, process="test")
        unreadable = Configs(other, database, platform.redis, Recorder(platform.settings.secret_key))
        await unreadable.put(tenant.id, weather.NAME, {"token": "lost"}, CLI)
        await database.aclose()
        async with asyncio.timeout(5):
            while "error" not in (answer := await asked(one)):
                pass
        assert answer["error"]["code"] == -32603
        assert answer["error"]["message"] == "The configuration of toolset weather cannot be read now."
        assert (await asked(one, "watch", gate=gate.name))["error"]["code"] == -32603
        assert gate.entered == 0
