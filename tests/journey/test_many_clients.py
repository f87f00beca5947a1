"""Many calls and many sessions at once: every answer right, none foreign, whichever pods are met."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.journey.conftest import Platform
from tests.sse import Stream, connect, text_of


async def test_32_calls_at_once_in_one_session_are_all_answered_right(platform: Platform) -> None:
    api, other = await platform.api(), await platform.api()
    await platform.worker()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        sent = {number: number + 1000 for number in range(32)}

        async def call(number: int) -> None:
            params = {"name": "add", "arguments": {"a": number, "b": 1000}}
            body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
            assert (await stream.post(body, base=(api, other)[number % 2])).status_code == 202

        await asyncio.gather(*(call(number) for number in sent))
        found: dict[int, int] = {}
        for _ in range(32):
            message = (await stream.event()).message
            assert message["id"] not in found
            found[message["id"]] = int(text_of(message["result"]))
        assert found == sent
        assert int(stream.last_id.rpartition(".")[2]) == 33


@pytest.mark.parametrize("tenants", [1, 2])
async def test_40_sessions_that_all_count_from_0_get_their_own_answers(platform: Platform, tenants: int) -> None:
    holder, other = await platform.api(), await platform.api()
    await platform.worker()
    await platform.worker()
    keys = {"demo": platform.key}
    if tenants == 2:
        await platform.tenants.create("second")
        await platform.tenants.enable("second", "demo")
        keys["second"], _ = await platform.keys.issue("second")

    async def use(number: int, slug: str, stream: Stream) -> None:
        stream.base = other
        await stream.initialize()
        for turn in range(3):
            text = f"{slug} {number} {turn}"
            answer = await stream.request("tools/call", {"name": "echo", "arguments": {"text": text}})
            assert answer["id"] == turn + 1
            assert text_of(answer["result"]) == text
        who = await stream.call("whoami")
        assert who["structuredContent"]["tenant"] == slug

    async with AsyncExitStack() as stack:
        slugs = [list(keys)[number % tenants] for number in range(40)]
        opened = [(slug, connect(holder, f"/t/{slug}/sse", key=keys[slug])) for slug in slugs]
        streams = await asyncio.gather(*(stack.enter_async_context(stream) for _, stream in opened))
        assert len({stream.session for stream in streams}) == 40
        await asyncio.gather(*(use(number, slugs[number], stream) for number, stream in enumerate(streams)))
