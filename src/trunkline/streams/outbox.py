"""What workers send to clients: messages while a call runs, and its one answer."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from trunkline.envelope import Call
from trunkline.streams.batch import Batch
from trunkline.streams.client import Redis
from trunkline.streams.connection import Argument, RedisRefusal

log = structlog.get_logger(__name__)

_Publication = tuple[Call, bytes, str, bytes, int]
"""The call, its answer, its outcome, what the session has negotiated by it, and for how many microseconds it ran."""


class Outbox:
    """Publishes for one worker.

    A finished answer is never dropped because Redis is away: `publish` tries until Redis answers, `notify` for as
    long as it is told. Messages of one call must be published one after the other, each awaited, for their order to
    hold.
    """

    def __init__(self, redis: Redis, worker: str) -> None:
        self._redis = redis
        self._worker = worker
        settings = redis.settings
        self._publishing: Batch[_Publication] = Batch(self._publish)
        self._limits = (settings.outbox_max_messages, settings.outbox_max_bytes, settings.outbox_ttl * 1000)
        self._record_ms = settings.session_ttl * 1000
        self._question_ms = int(settings.client_timeout * 1000) + 60_000

    async def publish(
        self, call: Call, message: bytes, outcome: str, context: bytes = b"", compute_us: int = 0
    ) -> int:
        """Publish the answer of a call, with its audit event, and acknowledge the call; all of it or nothing.

        Args:
            call: The call that is answered; a notification is only acknowledged.
            message: The JSON-RPC response; empty for a notification.
            outcome: How it ended, for the audit log: ok, tool_error, error or timeout.
            context: What the session has negotiated by this call; empty when that did not change.
            compute_us: For how long its tool ran, for the audit log.

        Returns:
            The offset in the outbox, or 0 when nobody waits for it: answered, cancelled or past its deadline.
        """
        offset: int = await self._publishing.add(call.lane, (call, message, outcome, context, compute_us))
        return offset

    async def _publish(self, lane: int, publications: Sequence[_Publication]) -> Sequence[int]:
        keys = self._redis.keys
        names = [keys.deadlines(lane), keys.calls(lane)]
        args: list[Argument] = [self._worker, keys.pods(lane), *self._limits, keys.lane(lane)]
        for call, message, outcome, context, compute_us in publications:
            how = f"{outcome}\n{compute_us}\n{len(message)}"
            args += (call.tenant, call.session, call.id, call.entry, message, context, how)
        try:
            offsets: Sequence[int] = await self._redis.confirmed("publish", names, args, patience=None)
        except RedisRefusal as error:
            if len(publications) > 1:  # one of them; the others are not to suffer for it
                return [(await self._publish(lane, [each]))[0] for each in publications]
            log.error("answer refused by Redis", call=publications[0][0].id, reason=str(error))
            return [0]
        return offsets

    async def notify(
        self,
        call: Call,
        number: int,
        message: bytes,
        extend_ms: int = 0,
        latest_ms: int = 0,
        *,
        asks: bool = False,
        patience: float | None = None,
    ) -> int:
        """Send a message to the client while its call is under way.

        Args:
            call: The call that the message belongs to.
            number: Its number within the attempt; a repetition of the same number is sent once.
            message: The JSON-RPC notification or request.
            extend_ms: With progress, the time that the call has from now on, in milliseconds; 0 leaves it.
            latest_ms: Beyond which epoch millisecond no progress extends it.
            asks: Whether it is a request, for whose response this worker waits; see `Questions`.
            patience: Seconds for which it is tried; None tries until Redis answers.

        Returns:
            The offset in the outbox, or 0 when the call is not pending any more or another worker's.

        Raises:
            Unavailable: Redis was away for so long.
        """
        keys = self._redis.keys
        tenant = keys.tenant(call.tenant)
        send = self._redis.confirmed if asks else self._redis.script
        offset: int = await send(
            "notify",
            (
                keys.stream(call.tenant, call.session)[0], tenant.deadlines,
                keys.questions(call.tenant, call.session, call.id),
            ),
            (
                call.session, call.id, f"{call.attempt}-{number}", f"{call.tenant}:{call.session}:{call.id}", message,
                extend_ms, latest_ms, tenant.pods, *self._limits, call.entry, self._worker if asks else "",
                self._question_ms, self._record_ms,
            ),
            patience=patience,
        )  # fmt: skip
        return offset

    async def hang_up(self, call: Call, *, own: bool = False) -> None:
        """Have the pod that holds the call's stream (`own`: the session's) end it; the client comes back for more.

        Raises:
            Unavailable: Redis is away.
        """
        keys = self._redis.keys
        await self._redis.script(
            "hangup",
            [keys.stream(call.tenant, call.session)[0]],
            [call.session, "" if own else call.id, keys.tenant(call.tenant).pods],
        )
