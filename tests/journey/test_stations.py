"""The seven stations of one call, followed by its ids in the log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog
from tests.journey.conftest import Platform
from tests.sse import connect

from trunkline import logs

CANARY = "canary-90ab"


@pytest.fixture
def log(platform: Platform) -> Iterator[io.StringIO]:
    """What all pods write at level debug; logging is as it was when the test ends."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    settings = platform.settings.model_copy(update={"log_level": "debug", "log_format": "json"})
    logs.configure(settings, "test", stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logs.stations.on = False
    for name in ("httpx2", "httpcore2", "asyncio", "mcp"):
        logging.getLogger(name).setLevel(logging.NOTSET)


async def test_one_call_passes_seven_stations_under_one_id(platform: Platform, log: io.StringIO) -> None:
    holder, other = await platform.api(), await platform.api()
    await platform.worker()
    async with connect(holder, key=platform.key) as stream:
        await stream.initialize()
        stream.base = other
        await stream.call("echo", {"text": CANARY})
    lines = [orjson.loads(line) for line in log.getvalue().splitlines()]
    (accepted,) = [line for line in lines if line.get("method") == "tools/call"]
    of_the_call: list[dict[str, Any]] = [line for line in lines if line.get("call") == accepted["call"]]
    # A worker may have claimed the call before the pod that enqueued it has its answer from Redis.
    first, *middle, last = [line["event"] for line in of_the_call]
    assert (first, sorted(middle), last) == ("accept", ["claim", "enqueue", "execute"], "publish")
    offset = of_the_call[-1]["offset"]
    at_the_stream = [line for line in lines if line.get("offset") == offset and "call" not in line]
    assert [line["event"] for line in at_the_stream] == ["forward", "deliver"]
    assert {line["session"] for line in of_the_call + at_the_stream} == {stream.session}
    assert {line["tenant"] for line in of_the_call + at_the_stream if "tenant" in line} == {"demo"}
    assert CANARY not in log.getvalue()
    assert platform.key not in log.getvalue()


async def test_a_log_that_nobody_reads_at_debug_has_no_line_of_a_call(platform: Platform, log: io.StringIO) -> None:
    logs.configure(platform.settings.model_copy(update={"log_format": "json"}), "test", stream=log)
    api = await platform.api()
    await platform.worker()
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        await stream.call("echo", {"text": CANARY})
    events = {orjson.loads(line)["event"] for line in log.getvalue().splitlines()}
    assert not events & {"accept", "enqueue", "claim", "execute", "publish", "forward", "deliver"}
