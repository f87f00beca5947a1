"""What writers of audit events leave behind when they die: entries half acknowledged, and consumers of the group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from trunkline.streams import audit
from trunkline.streams.audit import AuditEntry, AuditFeed
from trunkline.streams.client import Redis

LANE = 3
Feeds = Callable[[str], AuditFeed]


@pytest.fixture
async def feed(redis: Redis) -> AsyncIterator[Feeds]:
    """The feed of a writer, by its name."""
    made: dict[str, AuditFeed] = {}

    def of(writer: str) -> AuditFeed:
        return made.setdefault(writer, AuditFeed(redis, writer))

    yield of
    for each in made.values():
        await each.aclose()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer has not acknowledged is taken over by the next who reads."""
    monkeypatch.setattr(audit, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(audit, "_ABANDONED_MS", 0)


async def append(redis: Redis, count: int) -> None:
    for number in range(count):
        await redis.command("XADD", redis.keys.audit(LANE), "*", "e", f"{number}\n\n\n\n\n\n\n\n")
        await redis.command("INCR", redis.keys.unwritten(LANE))


def names(entries: list[AuditEntry]) -> list[bytes]:
    return [entry.lines[0] for entry in entries]


async def unacknowledged(redis: Redis) -> int:
    return int((await redis.command("XPENDING", redis.keys.audit(LANE), "audit"))[0])


async def consumers(redis: Redis) -> dict[bytes, dict[bytes, Any]]:
    """The group's consumers in one lane, with what Redis tells of each."""
    told = await redis.command("XINFO", "CONSUMERS", redis.keys.audit(LANE), "audit")
    read = [dict(zip(each[::2], each[1::2], strict=True)) for each in told]
    return {each[b"name"]: each for each in read}


async def test_what_a_writer_left_unacknowledged_is_read_by_another(redis: Redis, feed: Feeds, at_once: None) -> None:
    await append(redis, 2)
    assert len(await feed("dying").read(160, 10)) == 2
    other = feed("other")
    await other.ack(await other.read(160, 10))
    assert await other.backlog() == 0
    assert await unacknowledged(redis) == 0


async def test_events_that_two_writers_have_written_are_counted_off_once(
    redis: Redis, feed: Feeds, at_once: None
) -> None:
    await append(redis, 2)
    slow, other = feed("slow"), feed("other")
    first = await slow.read(160, 10)
    again = await other.read(160, 10)
    await append(redis, 3)
    for _ in range(2):
        await slow.ack(first)
        await other.ack(again)
    assert await other.backlog() == 3
    assert await unacknowledged(redis) == 0


async def test_a_count_of_unwritten_events_that_was_lost_is_right_again_when_all_are_written(
    redis: Redis, feed: Feeds
) -> None:
    await append(redis, 2)
    await redis.command("DEL", redis.keys.unwritten(LANE))
    await feed("writer").ack(await feed("writer").read(160, 10))
    assert await feed("writer").backlog() == 0
    await append(redis, 1)
    assert await feed("writer").backlog() == 1


async def test_as_many_entries_are_read_as_have_the_events_asked_for(redis: Redis, feed: Feeds) -> None:
    await append(redis, 100)
    assert len(await feed("writer").read(40, 10)) == 48, "16 at a time"
    assert len(await feed("writer").read(1_000, 10)) == 52


async def test_what_was_deleted_is_not_taken_over_and_what_lies_beside_it_is(
    redis: Redis, feed: Feeds, at_once: None
) -> None:
    await append(redis, 3)
    dead, heir = feed("dead"), feed("heir")
    _, middle, _ = await dead.read(160, 10)
    await redis.command("XDEL", redis.keys.audit(LANE), middle.entry_id)
    assert names(await heir.read(160, 10)) == [b"0", b"2"]
    assert await unacknowledged(redis) == 2


async def test_a_writer_that_is_long_gone_is_forgotten_unless_it_has_left_something(
    redis: Redis, feed: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = 300
    monkeypatch.setattr(audit, "_GONE_MS", long)
    await feed("gone").read(160, 1)
    await append(redis, 1)
    assert names(await feed("indebted").read(160, 10)) == [b"0"]
    async with asyncio.timeout(10):
        while any(each[b"idle"] < long for each in (await consumers(redis)).values()):
            pass  # each question is a round trip
    await feed("living").read(160, 1)
    assert set(await consumers(redis)) == {b"indebted", b"living"}

    monkeypatch.setattr(audit, "_ADOPT_EVERY", 0.0)  # adoption, too, makes it anew
    await append(redis, 2)
    assert names(await feed("gone").read(160, 10)) == [b"0", b"1"], "it comes back by itself"


async def test_writers_are_forgotten_rarely(redis: Redis, feed: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_ADOPT_EVERY", 0.0)
    monkeypatch.setattr(audit, "_GONE_MS", 0)
    first, second = feed("first"), feed("second")
    await first.read(160, 1)
    await second.read(160, 1)
    assert b"first" not in await consumers(redis)
    await first.read(160, 1)
    await second.read(160, 1)
    assert b"first" in await consumers(redis)
