"""Changes that hosted servers announce reach those whom they concern, once for many."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from trunkline import CurrentTenant, current_tenant_var
from trunkline.errors import Unavailable
from trunkline.toolsets.changes import Change
from trunkline.worker import announcements
from trunkline.worker.announcements import Announcements

ACME = CurrentTenant("t1", "acme", "key")


@dataclass
class FakeChanges:
    """The wire's `Changes`, kept in memory."""

    told: list[tuple[str, ...]] = field(default_factory=list)
    away: bool = False
    held: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.held.set()

    async def announce(self, tenant_id: str, lists: Collection[str]) -> None:
        if self.away:
            raise Unavailable("away")
        self.reached.set()
        await self.held.wait()
        self.told.append((tenant_id, *sorted(lists)))

    async def announce_toolset(self, toolset: str, lists: Collection[str], change: str) -> None:
        assert change
        self.told.append(("every tenant of", toolset, *sorted(lists)))

    async def updated(self, tenant_id: str, uri: str) -> None:
        self.told.append((tenant_id, uri))

    async def updated_toolset(self, toolset: str, uri: str, change: str) -> None:
        assert change
        self.told.append(("every tenant of", toolset, uri))


@pytest.fixture
def changes() -> FakeChanges:
    return FakeChanges()


@pytest.fixture
def telling(changes: FakeChanges) -> Announcements:
    return Announcements(changes)  # type: ignore[arg-type]


async def test_a_change_that_is_announced_often_is_told_once(changes: FakeChanges, telling: Announcements) -> None:
    for _ in range(100):
        telling.tell("t1", Change("tools"))
        telling.tell("t1", Change("prompts"))
        telling.tell("t2", Change(None, "a:b"))
    await telling.aclose()
    assert sorted(changes.told) == [("t1", "prompts", "tools"), ("t2", "a:b")]


async def test_a_change_meanwhile_is_told_again(changes: FakeChanges, telling: Announcements) -> None:
    changes.held.clear()
    telling.tell("t1", Change("tools"))
    async with asyncio.timeout(10):
        await changes.reached.wait()
    telling.tell("t1", Change("tools"))
    changes.held.set()
    await telling.aclose()
    assert changes.told == [("t1", "tools")] * 2


async def test_what_a_toolset_announces_in_a_call_concerns_its_tenant_and_else_all(
    changes: FakeChanges, telling: Announcements
) -> None:
    reset = current_tenant_var.set(ACME)
    telling.heard("news", Change("tools"))
    current_tenant_var.reset(reset)
    telling.heard("news", Change("resources"))
    await telling.aclose()
    assert sorted(changes.told) == [("every tenant of", "news", "resources"), ("t1", "tools")]


async def test_an_update_outside_of_a_call_concerns_all_tenants(changes: FakeChanges, telling: Announcements) -> None:
    telling.heard("news", Change(None, "a:b"))
    telling.heard("news", Change("tools"))
    await telling.aclose()
    assert sorted(changes.told) == [("every tenant of", "news", "a:b"), ("every tenant of", "news", "tools")]


async def test_with_redis_away_a_change_is_dropped_and_others_are_not(
    changes: FakeChanges, telling: Announcements
) -> None:
    changes.away = True
    telling.tell("t1", Change("tools"))
    telling.tell("t2", Change(None, "a:b"))
    await telling.aclose()
    assert changes.told == [("t2", "a:b")]


async def test_a_server_that_goes_on_announcing_keeps_no_worker_from_ending(
    changes: FakeChanges, telling: Announcements
) -> None:
    async def go_on() -> None:
        while True:
            telling.heard("news", Change("tools"))
            await asyncio.sleep(0)

    telling.tell("t1", Change("tools"))
    announcing = asyncio.create_task(go_on())
    async with asyncio.timeout(10):
        await telling.aclose()
    told = len(changes.told)
    assert ("t1", "tools") in changes.told
    telling.tell("t1", Change("tools"))
    await telling.aclose()
    assert len(changes.told) == told
    announcing.cancel()


async def test_with_redis_slow_the_last_changes_are_dropped_after_a_while(
    changes: FakeChanges, telling: Announcements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "_LAST", 0.01)
    changes.held.clear()
    telling.tell("t1", Change("tools"))
    async with asyncio.timeout(10):
        await telling.aclose()
    assert changes.told == []


async def test_a_server_that_announces_without_end_fills_no_memory(
    changes: FakeChanges, telling: Announcements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "_MOST", 3)
    for number in range(9):
        telling.tell("t1", Change(None, f"a:{number}"))
    await telling.aclose()
    assert len(changes.told) == 3
