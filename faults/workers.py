"""Scenarios of workers: killed at random, killed at each step, stopped and continued, and ended by their tools."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP

from faults.client import Client
from faults.deployment import Rig
from faults.effects import BEGUN, EFFECT
from faults.ledger import Call
from faults.load import share
from faults.nursery import Nursery, nursery
from faults.oracles import Finding, nothing_but, parked
from faults.pods import ScenarioError, until
from faults.scenarios import Figures, scenario
from faults.steps import EXPECTED, Expected, Step

# Killed at any moment.


@dataclass(frozen=True, slots=True)
class Kills:
    """Size: calls, kills among them, clients, and the greatest share of calls whose outcome may be unknown."""

    calls: int
    kills: int
    clients: int
    longest_ms: int
    """How long a call takes at most; long enough for a new worker to be there before the load is over."""
    most_unknown: float


@scenario(
    "worker-kills",
    "calls, half of them repeatable, and `kill -9` of workers",
    '"outcome unknown" at most 1.5 %',
    small=Kills(calls=300, kills=2, clients=8, longest_ms=200, most_unknown=0.05),
    full=Kills(calls=10_000, kills=30, clients=16, longest_ms=600, most_unknown=0.015),
)
async def kills(rig: Rig, size: Kills) -> Figures:
    await rig.start(apis=3, workers=3, nginx=True)
    clients = await rig.many_clients(size.clients)
    rig.remember()
    killed = 0

    def make(number: int) -> tuple[str, dict[str, object]]:
        return ("repeatable", "once")[number % 2], {"ms": rig.random.randrange(size.longest_ms)}

    calling = asyncio.create_task(share(clients, size.calls, make))
    for number in range(size.kills):
        # Spread over the run by what was done, not by time, so that every machine kills under load.
        await _until_done(rig, round(size.calls * (number + 0.5) / size.kills))
        victim = rig.random.choice(rig.workers)
        victim.kill()
        killed += not calling.done()
        await rig.restart(victim)
    await calling
    outcomes = rig.ledger.outcomes()
    unknown = outcomes["unknown"] / size.calls
    return Figures(
        f"{size.calls} calls of {size.clients} clients, {size.kills} workers killed and started anew",
        {
            **outcomes,
            "killed while calls ran": killed,
            "slowest": f"{max(call.took for call in rig.ledger.tool_calls):.1f} s",
        },
        (
            Finding(f"unknown at most {size.most_unknown:.1%}", unknown <= size.most_unknown, f"{unknown:.2%}"),
            nothing_but(rig.ledger.tool_calls, "result", "unknown"),
        ),
    )


async def _until_done(rig: Rig, count: int) -> None:
    await until(lambda: sum(call.done.is_set() for call in rig.ledger.tool_calls) >= count, 3_600, f"{count} calls")


# Killed at each step.


@dataclass(frozen=True, slots=True)
class Steps:
    """Size: deaths at each step, and how many of each are brought about at once."""

    deaths: int
    at_once: int


@scenario(
    "worker-steps",
    "a worker killed at each step between claim and acknowledgement",
    "the expected outcome of that step, every time",
    small=Steps(deaths=2, at_once=2),
    full=Steps(deaths=100, at_once=4),
)
async def steps(rig: Rig, size: Steps) -> Figures:
    # A stateless POST tells that it was accepted when the answer is there, or when a stream must be kept alive.
    rig.configure(lanes=2, keepalive_interval=1.0)
    await rig.start(apis=2, workers=0)
    workers = rig.stack.enter_context(nursery(rig))
    (living,) = await workers.bear(None)
    clients = await rig.many_clients(6)
    rig.remember()
    for begun in range(0, size.deaths, size.at_once):
        await workers.stop(living)
        living = await _die_once_each(rig, workers, clients, min(size.at_once, size.deaths - begun))
    wrong, right = _compare(rig, workers.deaths())
    missing = [
        f"{tool}, {step}: {right[tool, step]}"
        for tool, expected in EXPECTED.items()
        for step in expected
        if right[tool, step] + wrong[tool, step] < size.deaths
    ]
    return Figures(
        f"{size.deaths} workers killed at each of {len(right)} steps",
        {f"{tool}, {step}": right[tool, step] for tool, expected in EXPECTED.items() for step in expected},
        (
            Finding(
                "the outcome expected of each step", not wrong, str(dict(wrong)) if wrong else f"{right.total()}"
            ),
            Finding("all steps were reached", not missing, "; ".join(missing) or f"{len(right)}"),
        ),
    )


async def _die_once_each(rig: Rig, workers: Nursery, clients: list[Client], times: int) -> int:
    """Of each tool and step so many deaths: first all die, with nobody else to take their calls, then one lives.

    Returns:
        The process id of the one that lives.
    """
    sent: list[Call] = []
    for tool, expected in EXPECTED.items():
        doomed = await workers.bear(*(step for step in expected for _ in range(times)))
        await _slots(rig, len(doomed))
        calls = [await clients[number % len(clients)].start(tool) for number in range(len(doomed))]
        await asyncio.gather(*(call.known.wait() for call in calls))
        if any(call.fate != "accepted" for call in calls):
            raise ScenarioError("A call was not accepted.")
        await workers.gone(doomed)
        sent += calls
    (living,) = await workers.bear(None)
    await asyncio.gather(*(call.done.wait() for call in sent))
    return living


async def _slots(rig: Rig, count: int) -> None:
    """Wait until every lane knows of so many slots: what a tenant sends beyond would wait for others to end."""
    keys = rig.keys

    async def known() -> bool:
        told = [await rig.redis.command("GET", keys.slots(lane)) for lane in range(keys.lanes)]
        return all(int(each or 0) >= count for each in told)

    await until(known, 10, "the lanes to know of all slots")


def _compare(rig: Rig, deaths: dict[str, Step]) -> tuple[Counter[tuple[str, Step]], Counter[tuple[str, Step]]]:
    """How many calls came out other than expected, and how many as expected, by tool and step."""
    begun, effects = rig.effects.counts(BEGUN), rig.effects.counts(EFFECT)
    wrong: Counter[tuple[str, Step]] = Counter()
    right: Counter[tuple[str, Step]] = Counter()
    for call in rig.ledger.tool_calls:
        step = deaths.get(call.token)
        if step is None:
            continue
        found = Expected(call.outcome, begun[call.token], effects[call.token])
        as_expected = found == EXPECTED[call.tool][step]
        (right if as_expected else wrong)[call.tool, step] += 1
        if not as_expected:
            rig.ledger.surprises.append(f"{call.tool}, {step}: {found}")
    return wrong, right


# Stopped and continued.


@dataclass(frozen=True, slots=True)
class Stop:
    """Size: seconds for which a worker stands still."""

    seconds: float


@scenario(
    "worker-stopped",
    "a worker stopped (SIGSTOP) and continued",
    "fenced; one answer",
    small=Stop(seconds=6),
    full=Stop(seconds=45),
)
async def stopped(rig: Rig, size: Stop) -> Figures:
    await rig.start(apis=2, workers=2)
    clients = await rig.many_clients(9)
    rig.remember()
    standing = rig.workers[0]
    tools = ["once", "repeatable"] * len(clients)
    rig.random.shuffle(tools)  # else the order in which workers claim would give each one kind
    held = [await client.start(tool, ms=1_500) for client, tool in zip(clients * 2, tools, strict=True)]
    await asyncio.gather(*(rig.effects.seen(call.token) for call in held))
    standing.signal(SIGSTOP)
    at = asyncio.get_running_loop().time()
    runs_on = {each.token for each in rig.effects.executions() if each.worker == standing.pid}
    meanwhile = asyncio.create_task(_call_until(clients, at + size.seconds))
    await asyncio.sleep(size.seconds)
    answered_before = [call for call in held if call.answers]
    standing.signal(SIGCONT)
    during = await meanwhile
    await _works_again(rig, clients[0], standing.pid)
    caught = [call for call in held if call.token in runs_on]
    begun = rig.effects.counts(BEGUN)
    return Figures(
        f"one of two workers stopped for {size.seconds:.0f} s with {len(caught)} calls, {len(during)} more meanwhile",
        {
            "held": dict(Counter(call.outcome for call in caught)),
            "meanwhile": dict(Counter(c.outcome for c in during)),
        },
        (
            Finding("it held calls", bool(caught), f"{len(caught)}"),
            Finding(
                "answered before it went on",
                len(answered_before) == len(held),
                f"{len(answered_before)} of {len(held)}",
            ),
            nothing_but([call for call in caught if call.tool == "once"], "unknown"),
            nothing_but([call for call in (*held, *during) if call.tool == "repeatable"], "result"),
            Finding(
                "repeatable ones ran elsewhere",
                all(begun[call.token] == 2 for call in caught if call.tool == "repeatable"),
                f"{sum(call.tool == 'repeatable' for call in caught)}",
            ),
        ),
    )


async def _call_until(clients: list[Client], end: float) -> list[Call]:
    """Have every client call, one call after the other, until then."""
    made: list[Call] = []

    async def work(client: Client) -> None:
        while asyncio.get_running_loop().time() < end:
            made.append(await client.call("repeatable", ms=100))

    await asyncio.gather(*(work(client) for client in clients))
    return made


async def _works_again(rig: Rig, client: Client, worker: int) -> None:
    """Call until that worker has run something anew."""
    seen = len(rig.effects.executions())

    async def runs() -> bool:
        await asyncio.gather(*(client.call("repeatable", ms=20) for _ in range(4)))
        return any(each.worker == worker for each in rig.effects.executions()[seen:])

    await until(runs, 30, "the continued worker to run calls again")


# Tools that do harm.


@dataclass(frozen=True, slots=True)
class Hog:
    """Size: seconds for which a tool holds the event loop."""

    seconds: float


@scenario(
    "worker-hogged",
    "a tool that hogs the event loop",
    "no re-run",
    small=Hog(seconds=5),
    full=Hog(seconds=30),
)
async def hogged(rig: Rig, size: Hog) -> Figures:
    await rig.start(apis=2, workers=2)
    await rig.tenant("other")
    client = rig.random.choice(await rig.many_clients(3))
    others = await rig.many_clients(4, "other")
    rig.remember()
    hogs = [await client.start("hog", seconds=size.seconds)]
    await rig.effects.seen(hogs[0].token)
    beside = await share(others, 40, lambda _: ("once", {"ms": 20}))
    await asyncio.gather(*(client.settled(call) for call in hogs))
    begun = rig.effects.counts(BEGUN)
    return Figures(
        f"a tool held the event loop of one of two workers for {size.seconds:.0f} s, {len(beside)} calls beside it",
        {"hog": hogs[0].outcome, **Counter(f"beside: {call.outcome}" for call in beside)},
        (
            Finding("begun once", all(begun[call.token] == 1 for call in hogs), f"{begun[hogs[0].token]}"),
            nothing_but([*hogs, *beside], "result"),
        ),
    )


@dataclass(frozen=True, slots=True)
class Leave:
    """Size: calls of each kind that end their worker, one after the other, and long ones beside them."""

    calls: int
    beside: int
    """For each client of another tenant, while a call ends its workers after a second."""


@scenario(
    "worker-left",
    "a tool that ends its process: repeatable, at once or after a second, and non-repeatable",
    "set aside after three workers, unknown after one; other tenants unharmed",
    small=Leave(calls=1, beside=4),
    full=Leave(calls=10, beside=8),
)
async def left(rig: Rig, size: Leave) -> Figures:
    await rig.start(apis=2, workers=3)
    await rig.tenant("other")
    clients = await rig.many_clients(3)
    others = await rig.many_clients(4, "other")
    rig.remember()
    over = asyncio.Event()
    made: list[Call] = []

    async def call_on(other: Client, ms: int) -> None:
        while not over.is_set():
            made.append(await other.call("repeatable", ms=ms))

    async with supervised(rig) as restarts, asyncio.TaskGroup() as group:
        for other in others:
            group.create_task(call_on(other, 50))
        leaving = [
            await asyncio.gather(*(rig.random.choice(clients).call(tool) for tool in LEAVING))
            for _ in range(size.calls)
        ]
        # They run longer than the one beside them needs to end the worker, and some of so many meet it each time.
        for other in others * size.beside:
            group.create_task(call_on(other, 2_000))
        leaving += [[await rig.random.choice(clients).call("leave_later", seconds=1.0)] for _ in range(size.calls)]
        over.set()
    by_tool: defaultdict[str, list[Call]] = defaultdict(list)
    for call in itertools.chain.from_iterable(leaving):
        by_tool[call.tool].append(call)
    begun = rig.effects.counts(BEGUN)
    aside = await parked(rig)
    return Figures(
        f"{size.calls} calls of each kind ended their workers, {len(made)} calls of another tenant beside them",
        {
            "workers ended": len(restarts),
            "begun": {tool: [begun[call.token] for call in calls] for tool, calls in by_tool.items()},
            "set aside": aside,
            "slowest": f"{max(call.took for call in itertools.chain.from_iterable(leaving)):.1f} s",
            "slowest of the other tenant": f"{max(call.took for call in made):.1f} s",
        },
        (
            nothing_but([*by_tool["leave_repeatable"], *by_tool["leave_later"]], "parked"),
            nothing_but(by_tool["leave"], "unknown"),
            Finding("at most three attempts, at most one", _attempts(by_tool, begun), "see begun"),
            Finding("set aside", aside == 2 * size.calls, f"{aside}"),
            nothing_but(made, "result"),
        ),
    )


LEAVING = ("leave_repeatable", "leave")


def _attempts(by_tool: dict[str, list[Call]], begun: Counter[str]) -> bool:
    # Fewer begin where another call ended the worker first.
    most = {"leave_repeatable": 3, "leave_later": 3, "leave": 1}
    return all(begun[call.token] <= most[tool] for tool, calls in by_tool.items() for call in calls)


@contextlib.asynccontextmanager
async def supervised(rig: Rig) -> AsyncIterator[list[int]]:
    """Start anew every worker that ends within the block, as a supervisor does; process ids of those that ended."""
    ended: list[int] = []

    async def supervise() -> None:
        while True:
            await asyncio.sleep(0.1)
            for pod in list(rig.workers):
                if not pod.running:
                    ended.append(pod.pid)
                    await rig.restart(pod, ready=False)

    task = asyncio.create_task(supervise())
    try:
        yield ended
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
