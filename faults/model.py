"""A model of what each session's client must see, and sequences of everything that may happen to it, by chance.

Hypothesis draws the steps; each is carried out on real pods at once, and the model says what must come of it: every
accepted call is answered once, one that was taken back is not answered any more, offsets are contiguous, and a resume
from any earlier offset gives the same messages again and the rest, or 404 where the model knows that they are gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from faults.deployment import Rig
from faults.model_session import CALLS, Mismatch, Modelled
from faults.oracles import Finding
from faults.pods import Pod
from faults.scenarios import Figures, scenario
from faults.sse import Refused
from trunkline.streams.sessions import Owner, Sessions
from trunkline.tenants.keys import Keys

Result = TypeVar("Result")

STEPS = 14
"""Most steps of a sequence."""
_CALL_TIMEOUT = 20.0
_OPEN_TOGETHER = 4
"""Sessions that one sequence has."""


@dataclass
class World:
    """The deployment on which all sequences run, one after the other."""

    rig: Rig
    owner: Owner
    stranger: str
    """Another key of the same tenant."""
    sessions: Sessions
    loop: asyncio.AbstractEventLoop
    kills: int
    """How many more pods may be killed: what a dead worker held takes seconds."""
    counts: Counter[str] = field(default_factory=Counter)
    mismatches: list[Mismatch] = field(default_factory=list)
    starting: set[asyncio.Task[Pod]] = field(default_factory=set)

    def do(self, step: Coroutine[Any, Any, Result]) -> Result:
        """Carry out a step in the loop of the deployment; called from the thread of the sequences."""
        return asyncio.run_coroutine_threadsafe(step, self.loop).result(120)

    def pods(self, kind: str) -> list[Pod]:
        """The pods of a kind that are up."""
        of_kind = self.rig.apis if kind == "api" else self.rig.workers
        return [pod for pod in of_kind if pod.running and not self.starting]

    def url(self, number: int) -> str:
        """One of the API pods that are up."""
        running = [pod for pod in self.rig.apis if pod.running]
        ready = [pod for pod in running if pod.pid not in self._beginning] or running
        return ready[number % len(ready)].url

    @property
    def _beginning(self) -> set[int]:
        return {int(task.get_name()) for task in self.starting}

    async def kill(self, pod: Pod) -> None:
        """Kill a pod; one like it is started, and nobody waits for it."""
        self.kills -= 1
        pod.kill()
        begun = await self.rig.restart(pod, ready=False)
        task = asyncio.create_task(self._until_ready(begun), name=str(begun.pid))
        self.starting.add(task)
        task.add_done_callback(self.starting.discard)

    async def _until_ready(self, pod: Pod) -> Pod:
        await pod.ready()
        return pod


class Sequences(RuleBasedStateMachine):
    """What may happen, in any order. A subclass brings the world.

    What may be drawn depends on what was drawn before alone, never on what has come of it.
    """

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[Modelled] = []
        self.steps: list[str] = []
        self.killed = False

    def do(self, what: str, step: Coroutine[Any, Any, Result]) -> Result:
        """Carry out a step; if something is not as the model has it, say after which steps."""
        self.steps.append(what)
        self.world.counts[what.split(maxsplit=1)[0]] += 1
        try:
            found = self.world.do(step)
            for session in self.sessions:
                session.check()
        except (Mismatch, Refused, OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.world.mismatches.append(Mismatch(f"{error!r} after: {'; '.join(self.steps)}"))
            raise self.world.mismatches[-1] from error
        return found

    def pick(self, which: int) -> Modelled:
        """One of the sequence's sessions."""
        return self.sessions[which % len(self.sessions)]

    @precondition(lambda self: len(self.sessions) < _OPEN_TOGETHER)
    @rule(pod=st.integers(0, 2))
    def open(self, pod: int) -> None:
        """A client connects."""
        session = Modelled(self.world.rig.accounts["demo"], self.world.rig.ledger)
        self.do(f"open {len(self.sessions)} at {pod}", session.open(self.world.url(pod)))
        self.sessions.append(session)

    @precondition(lambda self: self.sessions)
    @rule(
        which=st.integers(0, 3), pod=st.integers(0, 2), kind=st.sampled_from(sorted(CALLS)),
        ms=st.sampled_from([0, 0, 0, 20, 150]), count=st.sampled_from([1, 1, 2, 8]),
    )  # fmt: skip
    def post(self, which: int, pod: int, kind: str, ms: int, count: int) -> None:
        """A client calls, through whichever pod; calls follow each other on one connection."""
        session = self.pick(which)
        for _ in range(count):
            self.do(f"post {which} {kind} {ms} at {pod}", session.post(self.world.url(pod), kind, ms))

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 3), pod=st.integers(0, 2), nth=st.integers(0, 20))
    def cancel(self, which: int, pod: int, nth: int) -> None:
        """A client takes a call back: one that it saw no answer to, or has just sent."""
        session, url = self.pick(which), self.world.url(pod)
        waiting = session.open_calls
        number = waiting[nth % len(waiting)] if waiting else self.do("post", session.post(url, "repeatable", 150))
        self.do(f"cancel {number} of {which} at {pod}", session.cancel(url, number))

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 3))
    def drop(self, which: int) -> None:
        """The network takes a stream away."""
        self.do(f"drop {which}", self.pick(which).drop())

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 3), pod=st.integers(0, 2), back=st.integers(0, 12))
    def resume(self, which: int, pod: int, back: int) -> None:
        """A client comes back, or a second stream of the same session replaces the first, from any earlier offset."""
        session = self.pick(which)
        self.do(f"resume {which} {back} back at {pod}", session.resume(self.world.url(pod), back))

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 3), pod=st.integers(0, 2), key=st.booleans())
    def intrude(self, which: int, pod: int, key: bool) -> None:
        """Somebody else tries the session, or its client an offset that never was."""
        stranger = self.world.stranger if key else ""
        self.do(f"intrude {which} at {pod}", self.pick(which).intrude(self.world.url(pod), stranger))

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 3), outbox=st.booleans())
    def expire(self, which: int, outbox: bool) -> None:
        """Time passes: a session that nobody uses ends, or what it was sent is not kept any more."""
        quiet = [session for session in self.sessions if session.quiet]
        if quiet:
            session = quiet[which % len(quiet)]
            self.do(f"expire {'outbox of ' if outbox else ''}{which}", self._expire(session, outbox=outbox))

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 3), sure=st.sampled_from([False, False, False, True]))
    def close(self, which: int, sure: bool) -> None:
        """A session is ended on every pod; seldom, since little can happen to it afterwards."""
        if sure:
            self.do(f"close {which}", self._close(self.pick(which)))

    @precondition(lambda self: not self.killed and self.sessions)
    @rule(which=st.integers(0, 2), kind=st.sampled_from(["api", "worker"]))
    def kill(self, which: int, kind: str) -> None:
        """A pod dies at once."""
        self.killed = True
        pods = self.world.pods(kind)
        if self.world.kills > 0 and len(pods) > 1:
            self.do(f"kill {kind}", self._kill(pods[which % len(pods)]))

    async def _expire(self, session: Modelled, *, outbox: bool) -> None:
        if not session.quiet:  # an answer has come between
            return
        names = self.world.rig.redis.keys.stream(self.world.owner.tenant, session.id)
        if not outbox:
            await session.drop()
        await self.world.rig.redis.command("PEXPIRE", names[1 if outbox else 0], 0)
        session.expired(outbox=outbox)

    async def _close(self, session: Modelled) -> None:
        if session.alive:
            await self.world.sessions.close(self.world.owner, session.id)
            await session.closed()

    async def _kill(self, pod: Pod) -> None:
        for session in self.sessions:
            if session.alive:
                for kind in ("once", "repeatable", "once"):
                    await session.post(self.world.url(0), kind, 150)
            session.endangered(pod.url)
        await self.world.kill(pod)

    def teardown(self) -> None:
        """In the end every client has seen what it must have seen, wherever it resumes."""
        try:
            for number, session in enumerate(self.sessions):
                self.do(f"settle {number}", session.settle(self.world.url(number), _CALL_TIMEOUT))
        finally:
            for session in self.sessions:
                self.world.do(session.leave())


@scenario(
    "model",
    "sequences of open, post, kill, resume, expire, cancel, close, as they come",
    "matches the model",
    small=15,
    full=500,
)
async def model(rig: Rig, size: int) -> Figures:
    """Run so many sequences on one deployment."""
    rig.configure(call_timeout=_CALL_TIMEOUT)
    await rig.start(apis=2 if size < 100 else 3, workers=2 if size < 100 else 3)
    rig.remember()
    world = await _world(rig, kills=max(size // 8, 2))
    await asyncio.to_thread(_run, world, size)
    wrong = str(world.mismatches[0]) if world.mismatches else ""
    await asyncio.gather(*world.starting)
    steps = ", ".join(f"{name} {count}" for name, count in sorted(world.counts.items()))
    return Figures(
        f"{size} sequences of up to {STEPS} steps.",
        {"steps": steps},
        (Finding("matches the model", not wrong, wrong or f"{sum(world.counts.values())} steps"),),
    )


async def _world(rig: Rig, kills: int) -> World:
    keys = Keys(rig.settings, rig.database, rig.redis)
    owned = await keys.list("demo")
    stranger, _ = await keys.issue("demo")
    owner = Owner(rig.accounts["demo"].id, owned[0].id)
    return World(rig, owner, stranger, Sessions(rig.redis, "model"), asyncio.get_running_loop(), kills)


def _run(world: World, count: int) -> None:
    bound = seed(world.rig.seed)(type("Bound", (Sequences,), {"world": world}))
    chosen = settings(
        max_examples=count,
        stateful_step_count=STEPS,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(bound, settings=chosen)
    except (Mismatch, ExceptionGroup):  # a group: the same steps went well when they were tried again
        if not world.mismatches:
            raise
