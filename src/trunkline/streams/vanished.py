"""Requests that a pod accepted and Redis has forgotten: after a failover without WAIT, or with its last moments.

The pod that holds the session's stream was told of them over Redis, and answers what it knows of (`api/answered.py`).
Where that was lost, too, the pod that accepted them is the only one that knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from trunkline.errors import Unavailable
from trunkline.streams.client import Redis
from trunkline.streams.connection import Argument, RedisRefusal
from trunkline.streams.lost import VANISHED

_REMEMBERED_MS = 5_000
"""How long before the latest one: the time by which a replica may be behind."""
_MOST = 20_000
_MOST_BYTES = 4_194_304
_AFTER = 2.0
"""Seconds after which Redis is asked, once it is there again: streams find out by themselves first what they can."""
_MARGIN_MS = 5_000
"""By which clocks may differ, and a request may have been accepted before this is told of it."""

log = structlog.get_logger(__name__)


class _Accepted(NamedTuple):
    at_ms: float
    tenant: str
    session: str
    call: str
    request_id: bytes


class Vanished:
    """The latest requests that this pod accepted for sessions' own streams."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        # Lines in two buffers: thousands of small objects between those of open streams would cost their memory.
        self._newer, self._older = bytearray(), bytearray()
        self._since = 0.0
        self._taken_back: deque[str] = deque(maxlen=_MOST)
        self._doubtful: dict[str, _Accepted] = {}
        self._again = asyncio.Event()

    def note(self, tenant: str, session: str, call: str, request_id: bytes) -> None:
        """A request was accepted."""
        now = self._redis.clock.now_ms()
        if now - self._since > _REMEMBERED_MS or len(self._newer) > _MOST_BYTES:
            self._older = self._newer if now - self._since < 2 * _REMEMBERED_MS else bytearray()
            self._newer, self._since = bytearray(), now
        self._newer += b"%.0f %b %b %b %b\n" % (now, tenant.encode(), session.encode(), call.encode(), request_id)

    def forget(self, call: str) -> None:
        """A request was taken back by its client: it gets no answer."""
        self._taken_back.append(call)

    def look(self) -> None:
        """Redis was away and is there again: have `run` look after all that was accepted before."""
        self._doubtful |= {each.call: each for each in self._remembered()}
        self._again.set()

    def _remembered(self) -> list[_Accepted]:
        return [_read(line) for line in bytes(self._older + self._newer).splitlines()]

    async def run(self) -> None:
        """Answer what Redis has forgotten, until cancelled."""
        while True:
            await self._again.wait()
            await asyncio.sleep(_AFTER)
            self._again.clear()
            doubtful, self._doubtful = self._doubtful, {}
            if answered := await self._answer_all(doubtful.values()):
                log.warning("requests that Redis had forgotten were answered", requests=answered)

    async def _answer_all(self, doubtful: Iterable[_Accepted]) -> int:
        sessions = defaultdict[tuple[str, str], list[_Accepted]](list)
        taken_back = set(self._taken_back)
        for each in doubtful:
            if each.call not in taken_back:
                sessions[each.tenant, each.session].append(each)
        answered = 0
        with contextlib.suppress(Unavailable, RedisRefusal):  # it is away again, and will be there again
            for (tenant, session), accepted in sessions.items():
                answered += await self._answer(tenant, session, accepted)
        return answered

    async def _answer(self, tenant: str, session: str, accepted: list[_Accepted]) -> int:
        keys, settings = self._redis.keys, self._redis.settings
        requests: list[Argument] = [part for each in accepted for part in (each.call, each.request_id)]
        answered: int = await self._redis.script(
            "vanished",
            keys.stream(tenant, session),
            [
                session, keys.tenant(tenant).pods,
                settings.outbox_max_messages, settings.outbox_max_bytes, settings.outbox_ttl * 1000,
                int(accepted[0].at_ms) - _MARGIN_MS, VANISHED, *requests,
            ],
        )  # fmt: skip
        return answered


def _read(line: bytes) -> _Accepted:
    at_ms, tenant, session, call, request_id = line.split(b" ", 4)
    return _Accepted(float(at_ms), tenant.decode(), session.decode(), call.decode(), request_id)
