"""What API pods do with calls: accept, cancel, reply; and what every process does: answer those that are overdue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
import structlog

from trunkline.envelope import Transport
from trunkline.errors import (
    REQUEST_CANCELLED,
    REQUEST_TIMEOUT,
    AuditBacklogFull,
    LaneFull,
    QuotaExceeded,
    SessionNotFound,
    TooManyCalls,
    TooManyRequests,
    TrunklineError,
    Unavailable,
)
from trunkline.streams.batch import Batch
from trunkline.streams.bounds import Admission, Bounds
from trunkline.streams.client import PATIENCE, Redis
from trunkline.streams.connection import Argument, RedisRefusal
from trunkline.streams.replicas import UNKNOWN, NotConfirmed
from trunkline.streams.sessions import Owner, is_session_id, session_rate, too_many_sessions
from trunkline.streams.vanished import Vanished

log = structlog.get_logger(__name__)

_SWEEP_BATCH = 256
_TAKE_BACK_WITHIN = 60.0
"""Seconds for which it is tried to take back what a Redis may have accepted that went away: those of a failover."""
TIMED_OUT = orjson.dumps(
    {
        "code": REQUEST_TIMEOUT,
        "message": "The call was not finished in time; whether it took effect is unknown.",
        "data": {"outcome": "unknown"},
    }
)


CANCELLED = orjson.dumps({"code": REQUEST_CANCELLED, "message": "Request cancelled"})


_KEPT_DELIVERED_MS = 120_000
"""How long the stream of a POST is kept that was written to its end, should the client have lost the last of it."""


class Opening(NamedTuple):
    """What is new with a message that opens its session."""

    caller: bytes
    """Goes to the worker with each call of the session."""
    limit: int | str
    """Most sessions of the tenant, or what `most_sessions` gives."""
    context: bytes = b""
    """Of a stateless request, what the worker is to know besides the body."""


class Place(NamedTuple):
    """Where the answer of a message is awaited that came by a POST of streamable HTTP."""

    stream: str
    """The call that names the POST's stream: its first request. Of a stateless request it is the call itself."""
    pod: str
    """Who holds the POST."""
    transport: Transport
    opening: Opening | None = None
    several: bool = False
    """Whether other requests came by the same POST, whose answers share its stream."""


class Message(NamedTuple):
    """A message that an API pod wants accepted."""

    call: str
    """Our own id of it, UUIDv7 as 32 hex characters."""
    session: str
    request_id: bytes
    """The JSON-RPC id as JSON; empty for a notification."""
    body: bytes
    seed: bytes = b""
    """What is known now of the audit event; empty where none is due."""
    place: Place | None = None
    """None where the answer comes on the session's own stream."""
    formal: bool = False
    """Whether it is a formality where the session's context begins with `{"formal":true`: then it goes no further."""


class UseUnknown(Exception):
    """What a tenant has used in a month is to be told first, see `trunkline.streams.quotas`."""

    def __init__(self, month: str, *, of_tenant: bool) -> None:
        super().__init__(month)
        self.month = month
        """As `2026-11`."""
        self.of_tenant = of_tenant
        """Whether the tenant has a quota, and not only the key."""


_Party = tuple[str, str, int, float, float, str, str, str, int | str, bytes, bytes]
_Acceptance = tuple[Owner, Message, Bounds]


class Calls:
    """The calls of all tenants."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        settings = redis.settings
        self._fixed = (
            int(settings.call_timeout * 1000),
            settings.session_ttl * 1000,
            settings.lane_max_length,
            settings.audit_max_backlog,
        )
        self._session_rate = session_rate(settings)
        self._outbox_limits = (settings.outbox_max_messages, settings.outbox_max_bytes, settings.outbox_ttl * 1000)
        self._accepting: Batch[_Acceptance] = Batch(self._accept)
        self.vanished = Vanished(redis)
        """What was accepted for sessions' own streams, should Redis forget it."""
        self._late: set[asyncio.Task[None]] = set()
        self._forgetting: Batch[tuple[str, str, int]] = Batch(self._forget)

    async def accept(self, owner: Owner, message: Message, bounds: Bounds) -> Admission:
        """Accept a message: once this returns, a request gets exactly one answer.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
            TooManyRequests: the rate or the number of unanswered requests of the tenant or the key is at its limit.
            QuotaExceeded: the tenant or the key has used what it may in this month.
            UseUnknown: nobody knows what the tenant or the key has used in this month, and it has a quota.
            TooManySessions: the message opens a session, and the tenant may not.
            Unavailable: the lane is full, too many audit events wait for Postgres, or Redis is away, or too few
                replicas have the message in time.
        """
        lane = self._redis.keys.tenant(owner.tenant).number
        answer = await self._accepting.add(lane, (owner, message, bounds))
        if isinstance(answer, int) or answer[0] == b"ok":
            if message.place is None and message.request_id:
                self.vanished.note(owner.tenant, message.session, message.call, message.request_id)
            return Admission(answer) if isinstance(answer, int) else Admission(answer[1], tuple(answer[2:]))
        reason, number, *used = answer
        if reason == b"unseeded":
            raise UseUnknown(number.decode(), of_tenant=bool(used[0]))
        if reason == b"unconfirmed":
            raise NotConfirmed
        if reason == b"late":  # or Redis' clock was set, and we must learn that
            await self._redis.clock.read(self._redis)
        raise _refusal(reason, number)

    async def _accept(self, lane: int, acceptances: Sequence[_Acceptance]) -> Sequence[Any]:
        keys = self._redis.keys
        names = [keys.deadlines(lane), keys.calls(lane)]
        until = int(self._redis.clock.now_ms() + PATIENCE * 1000)
        parties: dict[_Party, int] = {}
        messages: list[Argument] = []
        for owner, message, bounds in acceptances:
            number = parties.setdefault(_party(owner, message, bounds), len(parties) + 1)
            place = message.place
            messages += (
                number, message.call, message.request_id, message.body, message.seed, message.session,
                place.stream if place else b"", place.opening.context if place and place.opening else b"",
            )  # fmt: skip
        args: list[Argument] = [*self._fixed, keys.lane(lane), until, *self._session_rate, len(parties)]
        for party in parties:
            args += party
        args += messages
        answers: Sequence[Any]
        try:
            answers = await self._redis.confirmed("accept", names, args)
        except NotConfirmed as unsure:
            answers = await self._take_back(lane, [each[:2] for each in acceptances], unsure.reply)
        return answers

    async def _take_back(self, lane: int, accepted: Sequence[tuple[Owner, Message]], reply: Any) -> Sequence[Any]:
        """What was accepted, and replicas did not have in time, is refused; its answers as `accept` would give them.

        What was begun or answered meanwhile has reached them after all. Where Redis has gone away, and another one
        takes over perhaps, it is not known what that has: whatever it is, is taken back when it is there.
        """
        refused: list[Any] = [[b"unconfirmed", 1000]] * len(accepted)
        if reply is UNKNOWN:
            task = asyncio.create_task(self._take_back_late(lane, accepted))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return refused
        try:
            taken = await self._send_take_back(lane, accepted, PATIENCE)
        except Unavailable:
            return await self._take_back(lane, accepted, UNKNOWN)
        return [
            each if gone and _admits(given) else given
            for given, gone, each in zip(reply, taken, refused, strict=True)
        ]

    async def _take_back_late(self, lane: int, accepted: Sequence[tuple[Owner, Message]]) -> None:
        with contextlib.suppress(Unavailable, RedisRefusal):
            await self._send_take_back(lane, accepted, _TAKE_BACK_WITHIN)

    async def _send_take_back(
        self, lane: int, accepted: Sequence[tuple[Owner, Message]], patience: float
    ) -> Sequence[int]:
        keys = self._redis.keys
        args: list[Argument] = [keys.lane(lane), keys.control]
        for owner, message in accepted:
            opens = message.place is not None and message.place.opening is not None
            args += (owner.tenant, message.session, message.call, int(opens), int(message.request_id != b""))
        taken: Sequence[int] = await self._redis.script(
            "takeback", [keys.deadlines(lane), keys.calls(lane)], args, patience=patience
        )
        return taken

    async def cancel(self, owner: Owner, session: str, request_id: bytes, bounds: Bounds | None = None) -> list[str]:
        """Take back a request, named by its JSON-RPC id as JSON.

        The stream of a POST gets the error -32800 in the answer's place, so that it has an end for who resumes it.
        The worker that runs it is told.

        Args:
            owner: Whose request it is.
            session: Its session.
            request_id: The JSON-RPC id as JSON.
            bounds: The tenant's limits, where a message of its client asks for this.

        Returns:
            Our ids of the calls that are cancelled by this.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
            TooManyRequests: the tenant's rate is at its limit.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        cancelled = await self._redis.script(
            "cancel",
            [keys.stream(owner.tenant, session)[0], tenant.deadlines, tenant.calls],
            [
                owner.mark, request_id, session, f"{owner.tenant}:{session}:", tenant.lane, tenant.base, CANCELLED,
                tenant.pods, *self._outbox_limits, keys.control, *_pace(bounds),
            ],
        )  # fmt: skip
        if cancelled == 0:
            raise SessionNotFound
        if isinstance(cancelled, int):
            raise _refusal(b"rate", -cancelled)
        return [call.decode() for call in cancelled]

    async def reply(
        self, owner: Owner, session: str, question: str, response: bytes, bounds: Bounds | None = None
    ) -> bool:
        """Hand a client's response to the worker whose tool waits for it.

        Args:
            owner: Who sends it.
            session: In which session.
            question: The JSON-RPC id of the tool's request.
            response: The JSON-RPC response as the client sent it.
            bounds: The tenant's limits.

        Returns:
            False when nobody waits for it: answered before, out of time, or never asked in this session.

        Raises:
            SessionNotFound: unknown, ended or another principal's session.
            TooManyRequests: the tenant's rate is at its limit.
        """
        keys = self._redis.keys
        tenant = keys.tenant(owner.tenant)
        call, _, number = question.partition(".")
        if not is_session_id(call):  # ours have the same form
            call = ""
        taken: int | list[int] = await self._redis.script(
            "reply",
            [keys.stream(owner.tenant, session)[0], keys.questions(owner.tenant, session, call), tenant.usage],
            [owner.mark, call, number.replace(".", "-"), tenant.workers, response, *_pace(bounds)],
        )
        if isinstance(taken, list):
            raise _refusal(b"rate", taken[0])
        if taken < 0:
            raise SessionNotFound
        return bool(taken)

    def forget(self, tenant: str, name: str, *, resumable: bool = False) -> None:
        """A stream was delivered whole: nothing of it need be kept, or not for long if its client may come back.

        Sent with others, some time soon; should it not be, the stream expires.
        """
        keep = min(_KEPT_DELIVERED_MS, self._outbox_limits[2]) if resumable else 0
        waiting = self._forgetting.add(self._redis.keys.tenant(tenant).number, (tenant, name, keep))
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _forget(self, lane: int, streams: Sequence[tuple[str, str, int]]) -> Sequence[None]:
        await self._redis.script(
            "forget",
            [self._redis.keys.calls(lane)],
            [self._redis.keys.lane(lane), *(part for each in streams for part in each)],
        )
        return [None] * len(streams)

    async def sweep(self, lane: int, grace_ms: int) -> list[str]:
        """Answer the lane's calls that are `grace_ms` past their deadline; returns their ids."""
        keys = self._redis.keys
        settings = self._redis.settings
        swept = await self._redis.script(
            "sweep",
            [keys.deadlines(lane), keys.calls(lane)],
            [
                grace_ms, _SWEEP_BATCH, keys.lane(lane), TIMED_OUT, keys.pods(lane),
                settings.outbox_max_messages, settings.outbox_max_bytes, settings.outbox_ttl * 1000,
                int(settings.call_timeout_max * 1000) + grace_ms,
            ],
        )  # fmt: skip
        return [call.decode() for call in swept]

    async def sweep_all(self, grace_ms: int) -> list[str]:
        """Sweep every lane; what cannot be swept now, with Redis away or its groups lost, stays due.

        Returns:
            The ids of the calls that were answered.
        """
        lanes = range(self._redis.keys.lanes)
        swept = await asyncio.gather(*(self.sweep(lane, grace_ms) for lane in lanes), return_exceptions=True)
        answered: list[str] = []
        for outcome in swept:
            if isinstance(outcome, list):
                answered += outcome
            elif not isinstance(outcome, Unavailable | RedisRefusal):
                raise outcome
        return answered


def _admits(answer: Any) -> bool:
    """Whether what `accept` returned for a message is that it was accepted."""
    return isinstance(answer, int) or answer[0] == b"ok"


def _pace(bounds: Bounds | None) -> tuple[float, float]:
    """What `pace.lua` needs; zeros count nothing."""
    return (0, 0) if bounds is None else (bounds.interval_us, bounds.burst_us)


def _party(owner: Owner, message: Message, bounds: Bounds) -> _Party:
    """What messages of a batch have in common, so that it is sent and read once; see `accept.lua`."""
    place = message.place
    limit: int | str
    caller, limit, pod, transport = b"", 0, "", ""
    if place is None:
        kind = "formal" if message.formal else ""
    else:
        pod, transport = place.pod, place.transport
        kind = "part" if place.several else "post"
        if place.opening is not None:
            kind = "lone" if owner.transport == "lone" else "open"
            caller, limit = place.opening.caller, place.opening.limit
    return (
        owner.mark, owner.tenant, bounds.in_flight, bounds.interval_us, bounds.burst_us,
        kind, pod, transport, limit, caller, bounds.more,
    )  # fmt: skip


def _refusal(reason: bytes, retry_ms: int) -> TrunklineError:
    seconds = max(retry_ms / 1000, 0.001)
    match reason:
        case b"gone":
            return SessionNotFound()
        case b"rate":
            return TooManyRequests("The tenant sends faster than its rate limit allows.", retry_after=seconds)
        case b"key rate":
            return TooManyRequests("This API key sends faster than its rate limit allows.", retry_after=seconds)
        case b"key inflight":
            return TooManyCalls("This API key has as many unanswered calls as it may have.", retry_after=seconds)
        case b"calls" | b"compute":
            what = "tool calls" if reason == b"calls" else "compute"
            return QuotaExceeded(
                f"The monthly quota of {what} is used up; it begins anew with the next month (UTC).",
                retry_after=seconds,
                data={"quota": reason.decode()},
            )
        case b"inflight":
            return TooManyCalls(retry_after=seconds)
        case b"sessions" | b"key sessions" | b"session rate":
            return too_many_sessions(reason, retry_ms)
        case b"lane":
            return LaneFull(retry_after=seconds)
        case b"late":
            return Unavailable("Redis takes too long; try again shortly.", retry_after=seconds)
        case _:
            return AuditBacklogFull(retry_after=seconds)
