"""Readers that hardly read cost a bounded memory, are cut off, and miss nothing when they read again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from faults.readers import readers
from faults.sse import Listener
from tests.faults.conftest import Small
from tests.journey.conftest import Platform, eventually, platform_on
from tests.sse import connect

from trunkline.api.run import ApiProcess
from trunkline.api.stream import Stream
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


async def test_a_resume_that_is_not_read_holds_no_more_of_what_was_missed_than_the_bounds(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    write = Stream.write

    def written(stream: Stream, event: bytes) -> None:
        write(stream, event)
        held.append(kept(stream))

    api = await platform.api(stream_buffer_bytes=BUFFER, stream_write_timeout=1.0)
    await platform.worker()
    headers = {"authorization": f"Bearer {platform.key}"}
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for _ in range(MESSAGES):
            await stream.call("echo", {"text": LARGE})
        monkeypatch.setattr(Stream, "write", written)
        resumed = {**headers, "last-event-id": f"{stream.session}.0"}
        slow = await Listener.open(api, "/t/demo/sse", resumed, receive_buffer=1024)
        assert "replaced" in await stream.ended()

    async def cut_off() -> bool:
        await platform.redis.command("PING")
        there = list(platform.process(ApiProcess)._connections)
        held.extend(map(kept, there))
        return not there

    await eventually(cut_off)
    slow.close()
    assert HIGH_WATER < max(held) <= BUFFER + HIGH_WATER + 2 * len(LARGE), (
        f"{max(held)} bytes were kept for one reader"
    )


def kept(stream: Stream) -> int:
    """Bytes that were handed to a stream and that the kernel has not taken."""
    return stream._buffered + int(stream._protocol.transport.get_write_buffer_size())
