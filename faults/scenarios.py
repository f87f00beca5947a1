"""The scenarios: each is registered by its name, with two sizes and what must hold."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from faults import oracles
from faults.deployment import Rig, rigged
from faults.ledger import TRANSPORTS, Transport
from faults.oracles import Finding
from faults.pods import ScenarioError
from trunkline.settings import Settings

Size = TypeVar("Size")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a scenario did and found."""

    done: str
    """One sentence: what was done, with numbers."""
    counts: Mapping[str, object] = field(default_factory=dict)
    """What came of it."""
    findings: tuple[Finding, ...] = ()
    """What must hold in this scenario besides the oracles."""


@dataclass(frozen=True, slots=True)
class Scenario(Generic[Size]):
    """A registered scenario."""

    name: str
    title: str
    """What happens, as the table has it."""
    must_hold: str
    small: Size
    full: Size
    run: Callable[[Rig, Size], Awaitable[Figures]]
    needs_stores: bool
    """Whether it takes stores away and so needs its own."""
    deploys: bool
    """Whether it works with a rig's pods; if not, no oracle but its own findings is consulted."""
    transports: Sequence[Transport]
    """Over which of them it makes sense; its clients are divided among them."""
    without: Sequence[str] = ()
    """Names of oracles that nobody promises here: what they say is told, and may be anything."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario, carried out."""

    scenario: Scenario[Any]
    seed: int
    figures: Figures
    findings: list[Finding]
    """Those of the scenario and of all oracles."""
    seconds: float
    """From the first process to the last oracle."""
    consulting: float
    """Seconds of these that the oracles took: mostly waiting for everything to come to rest."""

    @property
    def failed(self) -> list[Finding]:
        """What does not hold."""
        return [finding for finding in self.findings if not finding.holds]

    def __str__(self) -> str:
        took = f"{self.seconds:.0f} s, of which {self.consulting:.0f} s until all was at rest"
        lines = [f"{self.scenario.name} (seed {self.seed}, {took}): {self.figures.done}"]
        lines += [f"    {name}: {count}" for name, count in self.figures.counts.items()]
        lines += [f"    {'ok' if each.holds else 'NO'}  {each.name}: {each.figure}" for each in self.findings]
        return "\n".join(lines)


registered: dict[str, Scenario[Any]] = {}


def scenario(
    name: str,
    title: str,
    must_hold: str,
    *,
    small: Size,
    full: Size,
    needs_stores: bool = False,
    deploys: bool = True,
    transports: Sequence[Transport] = TRANSPORTS,
    without: Sequence[str] = (),
) -> Callable[[Callable[[Rig, Size], Awaitable[Figures]]], Scenario[Size]]:
    """Register the function below as a scenario."""

    def register(run: Callable[[Rig, Size], Awaitable[Figures]]) -> Scenario[Size]:
        made = Scenario(name, title, must_hold, small, full, run, needs_stores, deploys, transports, without)
        registered[name] = made
        return made

    return register


async def carry_out(
    chosen: Scenario[Size],
    size: Size,
    seed: int,
    directory: Path,
    shared: Settings | None = None,
    transports: Sequence[Transport] = TRANSPORTS,
) -> Outcome:
    """Run one scenario on a rig of its own and consult the oracles.

    Args:
        chosen: The scenario.
        size: One of its sizes, or another.
        seed: Of everything that happens by chance.
        directory: Where logs and data go, empty and passable by every user.
        shared: Settings with a database and a Redis prefix of the rig's own, for scenarios that leave stores alone.
        transports: What its clients speak, of those over which the scenario makes sense.

    Raises:
        ScenarioError: it makes sense over none of them.
    """
    spoken = [each for each in chosen.transports if each in transports]
    if not spoken:
        raise ScenarioError(f"It is for {' and '.join(chosen.transports)}.")
    began = time.monotonic()
    async with rigged(directory, seed, None if chosen.needs_stores else shared, spoken) as rig:
        figures = await chosen.run(rig, size)
        done = time.monotonic()
        consulted = await oracles.consult(rig, chosen.without) if chosen.deploys else []
        told = {f"{each.name} (not promised)": each.figure for each in consulted if each.name in chosen.without}
        figures = replace(figures, counts={**figures.counts, **_by_transport(rig), **told})
        findings = [*figures.findings, *(each for each in consulted if each.name not in chosen.without)]
        ended = time.monotonic()
    return Outcome(chosen, seed, figures, findings, ended - began, ended - done)


def _by_transport(rig: Rig) -> Mapping[str, object]:
    found = rig.ledger.by_transport()
    told = (f"{name} {', '.join(f'{kind} {count}' for kind, count in each.items())}" for name, each in found.items())
    return {"by transport": "; ".join(told)} if found else {}
