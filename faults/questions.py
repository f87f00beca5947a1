"""A tool that asks its client, called by many at once, while a worker and an API pod die."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faults.client import Question
from faults.deployment import Rig
from faults.ledger import Call
from faults.oracles import Finding, nothing_but
from faults.pods import until
from faults.scenarios import Figures, scenario

_KILL_WORKER, _KILL_API = 0.2, 0.4
"""After which share of the calls."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    calls: int
    """All at once."""
    clients: int
    thinks: float
    """Seconds that a client takes at most for each answer."""
    pods: int
    """Of each kind."""


class Asked:
    """A client's answers, each made of the question, so that one which reaches another's tool shows.

    `roots/list` says nothing that an answer could be made of. Where the stream does not tell for which call it is,
    the id does: it begins as those of all questions of one call, and what came before named the token.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    def answer(self, question: Question, call: Call | None) -> Mapping[str, Any]:
        """The result for a tool's request."""
        params = question.get("params") or {}
        asker = str(question.get("id", "")).partition(".")[0]
        match question["method"]:
            case "elicitation/create":
                self._tokens[asker] = params["message"]
                return {"action": "accept", "content": {"text": f"word for {params['message']}"}}
            case "sampling/createMessage":
                text = f"thought of {params['messages'][0]['content']['text']}"
                return {"role": "assistant", "content": {"type": "text", "text": text}, "model": "faults"}
            case "roots/list":
                token = call.token if call is not None else self._tokens.get(asker, "nobody")
                return {"roots": [{"uri": f"file:///folder-{token}"}]}
            case method:
                raise ValueError(f"no tool of ours asks {method}")


@scenario(
    "questions",
    "a tool that elicits, samples and lists roots, called by many at once, while a worker and an API pod are killed",
    "every call ends in a defined way, none hangs, none gets another's answer",
    small=Size(calls=42, clients=12, thinks=0.3, pods=2),
    full=Size(calls=500, clients=60, thinks=1.0, pods=3),
)
async def questions(rig: Rig, size: Size) -> Figures:
    """Call all at once; kill a worker, then an API pod, while some are answered and most are not."""
    await rig.start(size.pods, size.pods)
    clients = await rig.many_clients(size.clients)
    for client in clients:
        client.answering, client.thinks = Asked().answer, size.thinks
    rig.remember()
    ended = 0

    async def ask(number: int) -> Call:
        nonlocal ended
        call = await clients[number % len(clients)].call("ask")
        ended += 1
        return call

    calling = asyncio.gather(*(ask(number) for number in range(size.calls)))
    under_way, begun = [], []
    for share, victim in ((_KILL_WORKER, rig.random.choice(rig.workers)), (_KILL_API, rig.random.choice(rig.apis))):
        await until(lambda share=share: ended >= size.calls * share, 120, f"{share:.0%} of the calls to end")
        under_way.append(size.calls - ended)
        victim.kill()
        begun.append(await rig.restart(victim, ready=False))
    calls = await calling
    await asyncio.gather(*(pod.ready() for pod in begun))
    in_sessions = [call for call in calls if call.transport != "modern"]
    return Figures(
        f"{size.calls} calls at once, each asking three times; a worker was killed with {under_way[0]} of them "
        f"under way, an API pod with {under_way[1]}.",
        {
            **Counter(call.outcome for call in calls),
            "answers to tools": dict(rig.ledger.replies),
            "read on elsewhere": len(rig.ledger.continued),
            "slowest": f"{max(call.took for call in calls if call.answers):.1f} s",
        },
        (
            nothing_but(calls, "result", "unknown", "ended"),
            Finding("killed while calls ran", all(under_way), str(under_way)),
            nothing_but([call for call in in_sessions if call.fate == "accepted"], "result", "unknown"),
            Finding("a third and more have a result", 3 * _results(calls) > size.calls, str(_results(calls))),
        ),
    )


def _results(calls: list[Call]) -> int:
    return sum(call.outcome == "result" for call in calls)
