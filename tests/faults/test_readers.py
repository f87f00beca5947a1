"""Readers that hardly read cost a bounded memory, are cut off, and miss nothing when they read again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from faults.readers import readers
from faults.sse import Listener
from tests.faults.conftest import Small
from tests.faults.outages import platform_on
from tests.journey.conftest import Platform
from tests.sse import PATIENCE, connect

from trunkline.api.connections import Stream
from trunkline.api.run import ApiProcess
from trunkline.settings import Settings

BUFFER = 200_000
HIGH_WATER = 65_536
LARGE = "x" * 200_000
MESSAGES = 25
"""More than twice of what the kernel takes for a connection whose reader does not read."""


@pytest.fixture
async def platform(settings: Settings) -> AsyncIterator[Platform]:
    async with platform_on(settings.model_copy(update={"lanes": 4})) as made:
        yield made


async def test_slow_readers_are_cut_off_at_the_bound_and_catch_up(small: Small) -> None:
    await small(readers)


async def test_a_resume_that_is_not_read_holds_no_more_of_what_was_missed_than_the_bounds(platform: Platform) -> None:
    api = await platform.api(stream_buffer_bytes=BUFFER, stream_write_timeout=60.0)
    await platform.worker()
    headers = {"authorization": f"Bearer {platform.key}"}
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for _ in range(MESSAGES):
            await stream.call("echo", {"text": LARGE})
        resumed = {**headers, "last-event-id": f"{stream.session}.0"}
        slow = await Listener.open(api, "/t/demo/sse", resumed, receive_buffer=1024)
        assert "replaced" in await stream.ended()
    held = await most_held(platform)
    slow.close()
    assert held <= BUFFER + HIGH_WATER + 2 * len(LARGE), f"{held} bytes are kept for one reader"


async def most_held(platform: Platform) -> int:
    """The most bytes that the pod has kept for one stream while its reader had time to read."""
    most = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE / 10):
            while True:
                most = max([most, *map(kept, platform.process(ApiProcess)._connections)])
                await asyncio.sleep(0.01)
    return most


def kept(stream: Stream) -> int:
    """Bytes that were handed to a stream and that the kernel has not taken."""
    return stream._buffered + int(stream._protocol.transport.get_write_buffer_size())
