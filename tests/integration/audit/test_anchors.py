"""Heads outside of Postgres betray one that was put back, however far the log has grown since."""

from __future__ import annotations

import pytest
from tests.integration.audit.logs import Log
from tests.integration.audit.test_verify import PUT_BACK, SAVE

from trunkline.audit.anchors import Anchors
from trunkline.audit.retention import Retention
from trunkline.streams.client import Redis

WIPE = ("DELETE FROM audit_events WHERE mine", "DELETE FROM audit_heads WHERE mine")


@pytest.fixture
def anchors(shared_log: Log, redis: Redis) -> Anchors:
    return Anchors(redis, shared_log.sealer)


async def grow(log: Log, anchors: Anchors, count: int) -> bool:
    """Append so many events as the writer does; whether all was well."""
    appended = await log.append([log.happened() for _ in range(count)])
    doubted = await anchors.grew(appended.grown)
    for tenant in doubted:
        log.heads.doubt(tenant)
    return not doubted


async def kept(log: Log, anchors: Anchors) -> int:
    found = await anchors.get(log.tenant)
    return found.seq if found else 0


async def kinds(log: Log) -> set[str]:
    return {finding.kind for finding in (await log.verify()).findings}


async def test_a_log_that_grows_has_its_newest_head_kept(shared_log: Log, anchors: Anchors):
    assert await grow(shared_log, anchors, 3)
    first = await shared_log.append([shared_log.happened()])
    second = await shared_log.append([shared_log.happened()])
    assert not await anchors.grew(second.grown)
    assert not await anchors.grew(first.grown), "it comes late"
    assert not await anchors.grew(second.grown), "it is told twice"
    assert await kept(shared_log, anchors) == 5
    await shared_log.fill(2)  # as the control plane does
    assert await grow(shared_log, anchors, 1)
    assert await kept(shared_log, anchors) == 8
    assert (await shared_log.verify()).intact


@pytest.mark.parametrize(("before", "after"), [(2, 10), (5, 5), (4, 1)])
async def test_a_head_put_back_is_betrayed_when_the_log_has_grown_beyond(
    shared_log: Log, anchors: Anchors, before: int, after: int
):
    assert await grow(shared_log, anchors, 10)
    await shared_log.tamper(SAVE)
    assert await grow(shared_log, anchors, before)
    await shared_log.tamper(PUT_BACK, "DELETE FROM audit_events WHERE mine AND seq > 10")
    well = [await grow(shared_log, anchors, after) for _ in range(before // after + 2)]
    assert False in well
    assert "broken" in await kinds(shared_log)
    assert await grow(shared_log, anchors, 1)
    assert await kept(shared_log, anchors) > 10 + before


async def test_a_chain_that_was_wiped_is_betrayed_when_it_is_as_long_again(shared_log: Log, anchors: Anchors):
    assert await grow(shared_log, anchors, 5)
    await shared_log.tamper(*WIPE)
    assert await grow(shared_log, anchors, 4)
    assert await kept(shared_log, anchors) == 5
    assert not await grow(shared_log, anchors, 1)
    assert await grow(shared_log, anchors, 1)
    assert await kinds(shared_log) == {"broken"}


async def test_each_hour_no_head_is_kept_of_a_chain_that_lacks_the_one_kept_before(
    shared_log: Log, anchors: Anchors, redis: Redis
):
    hourly = Retention(shared_log.settings, shared_log.database, redis)
    await shared_log.fill(3)
    await hourly.anchor()
    await shared_log.fill(2)
    await hourly.anchor()
    assert await kept(shared_log, anchors) == 5
    await shared_log.tamper(*WIPE)
    await shared_log.fill(9)
    await hourly.anchor()
    assert await kept(shared_log, anchors) == 5
    assert not await grow(shared_log, anchors, 1)
    assert await grow(shared_log, anchors, 1)
    assert await kept(shared_log, anchors) == 11
