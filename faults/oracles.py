"""What must hold after every scenario, whatever was done: asked of the books, of the effects, and of both stores."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text

from faults.client import LATE
from faults.deployment import Rig
from faults.effects import BEGUN, EFFECT
from faults.ledger import Call, Ledger
from trunkline.db import task_scope

ONCE = ("once", "hog", "leave", "ask")
"""The tools that may not be repeated."""
EFFECTS = "effects of a non-repeatable call at most 1"
AUDITED = "one audit row per call"
_QUIET = 30.0
"""Seconds within which everything must have come to rest once nobody calls."""
_WRITTEN = 75.0
"""Seconds within which the audit log must be complete: what a dead worker had read waits for half a minute."""
_FEW_DESCRIPTORS = 24
_MORE_MEMORY = 64 * 1024 * 1024
"""Bytes by which a pod may have grown: arenas that Python's allocator keeps."""


class Finding(NamedTuple):
    """One oracle's answer."""

    name: str
    holds: bool
    figure: str
    """The number that it is about, or what was found, in a few words."""


def nothing_but(calls: Sequence[Call], *kinds: str) -> Finding:
    """Whether all these calls ended in one of these ways."""
    others = Counter(call.outcome for call in calls if call.outcome not in kinds)
    return Finding(f"nothing but {' and '.join(kinds)}", not others, str(dict(others)) if others else f"{len(calls)}")


async def consult(rig: Rig, without: Sequence[str] = ()) -> list[Finding]:
    """All oracles, after everybody has been given time to come to rest; hangs up the clients.

    Nothing is waited for that those `without` a promise would have to see.
    """
    ledger = rig.ledger
    await _all_settled(rig)
    await rig.hang_up()
    return [
        *books(ledger),
        _lateness(rig),
        _effects(rig),
        await _audit(rig, 0.0 if AUDITED in without else _WRITTEN),
        await _quiet(rig),
        await _baseline(rig),
    ]


async def _all_settled(rig: Rig) -> None:
    """Wait for the answers that may still come, no longer than any may take."""
    for call in rig.ledger.accepted:
        left = call.sent_at + rig.settings.call_timeout + LATE - time.monotonic()
        if left > 0 and not call.done.is_set():
            await asyncio.wait({asyncio.ensure_future(call.done.wait())}, timeout=left)


def books(ledger: Ledger) -> list[Finding]:
    """What the clients' books alone tell."""
    silent = [call for call in ledger.accepted if not call.answers and not call.ended]
    twice = [call for call in ledger.calls if len(call.answers) > 1]
    return [
        Finding("accepted without answer", not silent, _few(silent)),
        Finding("second terminal answer", not twice, _few(twice)),
        Finding("foreign answers", not ledger.foreign, _few(ledger.foreign)),
        Finding("resumes contiguous or ended", not ledger.breaks, _few(ledger.breaks)),
        Finding("unexplained", not ledger.surprises, _few(ledger.surprises)),
    ]


def _lateness(rig: Rig) -> Finding:
    """No call outlives its time by more than 15 s; progress is not counted, for no call of ours asks for it."""
    most = rig.settings.call_timeout + LATE
    latest = max((call.took for call in rig.ledger.accepted if call.answers), default=0.0)
    return Finding(f"answered within {most:.0f} s", latest <= most, f"{latest:.1f} s")


def _effects(rig: Rig) -> Finding:
    counts = {phase: rig.effects.counts(phase) for phase in (BEGUN, EFFECT)}
    again = [
        call.token
        for call in rig.ledger.tool_calls
        if call.tool in ONCE and any(count[call.token] > 1 for count in counts.values())
    ]
    return Finding(EFFECTS, not again, _few(again))


async def _audit(rig: Rig, patience: float) -> Finding:
    """One row for each accepted call of a tool, none for any that was refused; waits until they are written."""
    wanted = Counter(_key(call) for call in rig.ledger.tool_calls if call.fate == "accepted")
    allowed = wanted | Counter(_key(each) for each in rig.ledger.tool_calls if each.fate == "unknown")
    end = time.monotonic() + patience
    while True:
        rows = await _audited(rig)
        missing, surplus = wanted - rows, rows - allowed
        if not missing or time.monotonic() > end:
            break
        await asyncio.sleep(0.1)
    figure = f"{rows.total()} rows" if not missing and not surplus else f"{len(missing)} missing, {len(surplus)} more"
    return Finding(AUDITED, not missing and not surplus, figure)


def _key(call: Call) -> str:
    """How a call is found again: in its session, or by an id that no other has."""
    return f'"{call.number}"' if isinstance(call.number, str) else f"{call.session} {call.number}"


async def _audited(rig: Rig) -> Counter[str]:
    statement = text("SELECT session_id, request_id FROM audit_events WHERE action = 'tools/call'")
    async with rig.database.transaction(task_scope("audit")) as transaction:
        rows = (await transaction.execute(statement)).all()
    return Counter(number if number.startswith('"') else f"{session} {number}" for session, number in rows)


async def _quiet(rig: Rig) -> Finding:
    """Nothing waits, runs or is counted any more."""
    end = time.monotonic() + _QUIET
    while (left := await pending(rig)) and time.monotonic() < end:
        await asyncio.sleep(0.1)
    return Finding("nothing pending", not left, ", ".join(f"{name}: {count}" for name, count in left.items()) or "0")


async def pending(rig: Rig) -> dict[str, int]:
    """What Redis still holds of calls, by kind; what was set aside is not counted."""
    keys, command = rig.keys, rig.redis.command
    left: Counter[str] = Counter()
    for lane in range(keys.lanes):
        left["in lanes"] += await command("XLEN", keys.calls(lane))
        left["deadlines"] += await command("ZCARD", keys.deadlines(lane))
        if await command("EXISTS", keys.calls(lane)):
            left["claimed"] += (await command("XPENDING", keys.calls(lane), "workers"))[0]
    for account in rig.accounts.values():
        tenant = keys.tenant(account.id)
        left["in flight"] += int(await command("HGET", tenant.usage, "inflight") or 0)
        left["waiting for their turn"] += await command("XLEN", f"{tenant.base}surplus")
    return {name: count for name, count in left.items() if count}


async def parked(rig: Rig) -> int:
    """How many calls are set aside."""
    keys = rig.keys
    return sum([await rig.redis.command("XLEN", keys.parked(lane)) for lane in range(keys.lanes)])


async def _baseline(rig: Rig) -> Finding:
    """Descriptors and memory of the pods that lived through it, beside what they were at `Rig.remember`."""
    pods = [pod for pod in (*rig.apis, *rig.workers) if pod.pid in rig.baseline and pod.running]
    end = time.monotonic() + _QUIET
    while True:
        grown = []
        for pod in pods:
            descriptors, resident = (now - then for now, then in zip(pod.usage(), rig.baseline[pod.pid], strict=True))
            if descriptors > _FEW_DESCRIPTORS or resident > _MORE_MEMORY:
                grown.append(f"{pod.kind} {pod.pid}: {descriptors:+} descriptors, {resident / 2**20:+.0f} MiB")
        if not grown or time.monotonic() > end:
            break
        await asyncio.sleep(0.2)
    return Finding("descriptors and memory back", not grown, _few(grown) if grown else f"{len(pods)} pods")


def _few(found: Sequence[object]) -> str:
    return "0" if not found else f"{len(found)}: {'; '.join(str(each)[:300] for each in found[:3])}"
