from __future__ import annotations

from typing import cast

from trunkline.api.events import EventStream
from trunkline.api.expiry import Expiries


class Open:
    """A stream, as far as it matters when it ends."""

    def __init__(self, expires_at: float) -> None:
        self.expires_at = expires_at
        self.ended = ""

    def end(self, reason: str) -> None:
        self.ended = self.ended or reason


async def test_streams_end_when_they_are_due_and_are_watched_no_longer() -> None:
    now = 100.0
    expiries = Expiries(lambda: now)
    streams = [Open(100.5), Open(101.0), Open(102.0)]
    for stream in streams:
        expiries.watch(cast("EventStream", stream))
    expiries.look()
    assert [stream.ended for stream in streams] == ["", "", ""]
    now = 101.0
    streams[2].end("client gone")
    expiries.look()
    assert [stream.ended for stream in streams] == ["key expired", "key expired", "client gone"]
    assert not expiries._soon
