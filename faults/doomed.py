"""Workers that die at one named step: a process that has imported everything once forks them, in milliseconds each.

Reads a step a line from standard input, or `none` for a worker that lives, and prints the process id of each worker.
When standard input ends, so do all workers. A worker that dies writes `step token` to the file that is its argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import orjson
import redis as redis_sync

from faults import effects
from faults.steps import Step
from trunkline.audit.write import AuditWriter
from trunkline.envelope import Call
from trunkline.settings import Settings, load_settings
from trunkline.streams.client import Redis
from trunkline.toolsets.catalog import gather
from trunkline.worker.consumer import Consumer
from trunkline.worker.run import work

NONE = "none"


class Doom:
    """What ends one worker: its step, once it runs a call's first attempt."""

    def __init__(self, step: Step, settings: Settings, deaths: str) -> None:
        self._step = step
        self._settings = settings
        self._deaths = deaths
        self._call: Call | None = None

    def install(self) -> None:
        """Put the step's trap between the worker and what it does."""
        self._watch_claims()
        self._watch_scripts()
        self._watch_tools()
        _replace(AuditWriter, "run", _idle)  # what it had read would be another's only half a minute later

    def _watch_claims(self) -> None:
        claimed = Consumer._claimed  # noqa: SLF001 - a death in the midst of things has no public place

        def trap(consumer: Consumer, calls: Sequence[Call]) -> None:
            for call in calls:
                body = orjson.loads(call.body)
                if body.get("method") == "tools/call" and call.attempt == 1 and self._call is None:
                    self._call = call
                    self._reached(Step.CLAIMED)
            claimed(consumer, calls)

        _replace(Consumer, "_claimed", trap)

    def _watch_scripts(self) -> None:
        script = Redis.script

        async def trap(redis: Redis, name: str, keys: Sequence[str], args: Sequence[Any], **options: Any) -> Any:
            if self._call is None or name not in ("start", "publish") or self._call.id not in args:
                return await script(redis, name, keys, args, **options)
            before, after = (Step.STARTING, Step.STARTED) if name == "start" else (Step.PUBLISHING, Step.PUBLISHED)
            self._reached(before)
            sending = asyncio.create_task(script(redis, name, keys, args, **options))
            if name == "publish" and self._step is Step.SENT:
                await self._sent(redis)
            reply = await sending
            self._reached(after)
            return reply

        _replace(Redis, "script", trap)

    def _watch_tools(self) -> None:
        record = effects.Reporter.record

        async def trap(reporter: effects.Reporter, token: str, phase: str) -> None:
            await record(reporter, token, phase)
            self._reached(Step.BEGUN if phase == effects.BEGUN else Step.EFFECT)

        _replace(effects.Reporter, "record", trap)

    async def _sent(self, redis: Redis) -> None:
        """Wait, reading nothing from Redis, until it has carried the command out."""
        assert redis._connection is not None  # noqa: SLF001
        assert redis._connection._transport is not None  # noqa: SLF001
        redis._connection._transport.pause_reading()  # noqa: SLF001
        while not self._carried_out():
            await asyncio.sleep(0)
        self._reached(Step.SENT)

    def _carried_out(self) -> bool:
        assert self._call is not None
        call = self._call
        session = f"{self._settings.redis_prefix}{{l{call.lane}}}:t:{call.tenant}:s:{call.session}"
        with contextlib.closing(redis_sync.Redis.from_url(self._settings.redis_url)) as client:
            return not client.hexists(session, f"p:{call.id}")

    def _reached(self, step: Step) -> None:
        if step is not self._step or self._call is None:
            return
        token = orjson.loads(self._call.body)["params"]["arguments"]["token"]
        descriptor = os.open(self._deaths, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{token} {step}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


async def _idle(_: object) -> None:
    await asyncio.Event().wait()


def _replace(owner: type, name: str, trap: object) -> None:
    setattr(owner, name, trap)


def main(deaths: str) -> None:
    """Fork workers until standard input ends."""
    settings = load_settings()
    gather(settings.servers)  # so that no child has to import them
    children: set[int] = set()
    signal.signal(signal.SIGCHLD, lambda *_: _reap(children))
    for line in sys.stdin:
        name = line.strip()
        pid = os.fork()
        if pid == 0:
            _live(name, settings, deaths)
        children.add(pid)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for pid in list(children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap(children: set[int]) -> None:
    for pid in list(children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0]:
                children.discard(pid)


def _live(name: str, settings: Settings, deaths: str) -> None:
    """Be a worker, in a process that was just forked; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    code = 1
    try:
        if name != NONE:
            Doom(Step(name), settings, deaths).install()
        work(settings)
        code = 0
    except Exception:  # noqa: BLE001 - nothing above would tell of it
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
