"""How a worker's free slots are shared among the lanes."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.settings import Settings
from trunkline.streams.bounds import Bounds
from trunkline.streams.client import Redis, digest, source
from trunkline.streams.connection import Connection
from trunkline.streams.lanes import LaneReader
from trunkline.streams.sessions import is_session_id, new_session_id

SETTINGS = Settings(environment="dev", lanes=4)


class Lanes:
    """XREADGROUP over lists in memory."""

    def __init__(self, waiting: list[int]) -> None:
        self.waiting = waiting
        self.claims = 0

    async def send(self, *command: Any) -> list[Any]:
        self.claims += 1
        count = command[command.index("COUNT") + 1]
        streams = command[command.index("STREAMS") + 1 :]
        names = [name for name in streams if name != ">"]
        assert len(names) * 2 == len(streams)
        reply = []
        for name in names:
            lane = int(name.partition("{l")[2].partition("}")[0])
            taken = min(count, self.waiting[lane])
            self.waiting[lane] -= taken
            head = b"1\ncall\ntenant\nsession\n1\n2"
            fields = [b"h", head, b"b", b"{}", b"a", b"{}", b"x", b""]
            if taken:
                reply.append((name.encode(), [(b"%d-0" % number, fields) for number in range(taken)]))
        return reply


def reader(lanes: Lanes) -> LaneReader:
    return LaneReader(cast("Connection", lanes), Redis(SETTINGS, "test"), "w1")


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4), st.integers(1, 40))
async def test_never_more_is_claimed_than_there_are_free_slots_and_in_the_end_all_of_it(
    waiting: list[int], free: int
) -> None:
    lanes = Lanes(list(waiting))
    claiming = reader(lanes)
    claimed = 0
    for _ in range(sum(waiting) * 4 + 4):
        calls = await claiming.claim(free, 0)
        assert len(calls) <= free
        claimed += len(calls)
    assert claimed == sum(waiting)


async def test_one_busy_lane_may_use_what_the_others_leave() -> None:
    calls = await reader(Lanes([100, 0, 0, 0])).claim(16, 0)
    assert len(calls) == 16


async def test_a_busy_lane_does_not_crowd_out_the_others() -> None:
    calls = await reader(Lanes([100, 3, 1, 4])).claim(16, 0)
    by_lane = [sum(call.lane == lane for call in calls) for lane in range(4)]
    assert by_lane[1:] == [3, 1, 4]


async def test_an_entry_of_another_version_is_left_and_the_rest_claimed() -> None:
    class Newer(Lanes):
        async def send(self, *command: Any) -> list[Any]:
            reply = await super().send(*command)
            for _, entries in reply:
                entries.insert(0, (b"9-9", [b"h", b"2\nc\nt\ns\n1\n2"]))
            return reply

    assert len(await reader(Newer([1, 0, 0, 0])).claim(4, 0)) == 1


def test_limits_are_said_in_the_units_of_the_script() -> None:
    bounds = Bounds.of(rate=50.0, burst=10, in_flight=3)
    assert (bounds.in_flight, bounds.interval_us, bounds.burst_us) == (3, 20_000, 200_000)


@given(st.text(max_size=40))
def test_only_what_could_be_a_session_id_reaches_redis(text: str) -> None:
    assert is_session_id(text) == (len(text) == 32 and text.isascii() and text.isalnum())


def test_session_ids_are_long_and_never_the_same() -> None:
    made = {new_session_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(is_session_id(session) for session in made)


@pytest.mark.parametrize(
    "name", ["accept", "attach", "beat", "cancel", "close", "notify", "open", "publish", "revoke", "snapshot",
             "sweep", "ticket", "touch"],
)  # fmt: skip
def test_every_script_has_its_parts_and_says_what_it_guarantees(name: str) -> None:
    text = source(name)
    assert "@include" not in text
    assert "-- KEYS:" in text
    assert len(digest(name)) == 40
