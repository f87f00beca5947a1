"""The way of a call: accepted by one pod, executed by a worker, delivered by the pod that holds the stream."""

from __future__ import annotations

from tests.journey.conftest import Platform
from tests.sse import connect, text_of


async def test_a_tool_is_called_over_sse(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        answer = await stream.initialize()
        assert answer["result"]["protocolVersion"] == "2025-06-18"
        assert text_of(await stream.call("add", {"a": 3, "b": 5})) == "8"


async def test_a_post_through_one_pod_is_answered_on_the_stream_of_another(platform: Platform) -> None:
    holder, other = await platform.api(), await platform.api()
    await platform.worker()
    async with connect(holder, key=platform.key) as stream:
        stream.base = other
        await stream.initialize()
        assert text_of(await stream.call("echo", {"text": "across"})) == "across"
