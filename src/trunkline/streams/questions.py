"""Requests from a tool to its client: the worker that asks waits here for the response, which may come by any pod.

A request goes out on the stream of its call (`Outbox.notify`), which records that this worker waits. The pod that
receives the client's response hands it to that worker (`Calls.reply`): it is kept in Redis, and a live copy goes to
the worker's channel. Should that be lost, `refresh` finds what is kept.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from trunkline.envelope import Call
from trunkline.streams.client import Redis


class Question(NamedTuple):
    """One request to a client, not answered yet."""

    id: str
    """Its JSON-RPC id, a string: call, attempt and number within the attempt; any pod can tell who asks."""
    call: Call
    answer: asyncio.Future[bytes]
    """The client's JSON-RPC response, an error as well."""

    @property
    def field(self) -> str:
        """Where it is recorded, in the questions of its call."""
        return self.id.partition(".")[2].replace(".", "-")


class Questions:
    """What the tools of one worker wait for."""

    def __init__(self, redis: Redis, worker: str) -> None:
        self._redis = redis
        keys = redis.keys
        self.channels = tuple(keys.workers_of(lane) + worker for lane in range(keys.lanes))
        """What this worker must listen to; hand what comes to `received`, and call `refresh` after a loss."""
        self._waiting: dict[str, Question] = {}

    def open(self, call: Call, number: int) -> Question:
        """Expect a response, before the request is sent as message `number` of the call; see `close`."""
        question = Question(f"{call.id}.{call.attempt}.{number}", call, asyncio.get_running_loop().create_future())
        self._waiting[question.id] = question
        return question

    async def close(self, question: Question) -> None:
        """Wait no more: a response that comes later is dropped.

        Raises:
            Unavailable: Redis is away.
        """
        del self._waiting[question.id]
        call = question.call
        await self._redis.command(
            "HDEL", self._redis.keys.questions(call.tenant, call.session, call.id), question.field
        )

    def received(self, payload: bytes) -> None:
        """A response came by one of the channels."""
        name, _, response = payload.partition(b"\n")
        call, _, field = name.decode().partition(".")
        self._settle(f"{call}.{field.replace('-', '.')}", response)

    async def refresh(self) -> None:
        """Look for the responses that were missed while nobody listened.

        Raises:
            Unavailable: Redis is away.
        """
        for question in list(self._waiting.values()):
            call = question.call
            key = self._redis.keys.questions(call.tenant, call.session, call.id)
            found: bytes | None = await self._redis.command("HGET", key, question.field)
            if found is not None and found.startswith(b"!"):
                self._settle(question.id, found[1:])

    def _settle(self, question_id: str, response: bytes) -> None:
        question = self._waiting.get(question_id)
        if question is not None and not question.answer.done():
            question.answer.set_result(response)
