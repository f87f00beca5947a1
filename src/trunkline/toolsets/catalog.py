"""The toolsets of one worker, alive, and the server that each tenant's switches make of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from mcp.server.lowlevel import Server
from mcp.shared.subscriptions import ServerEvent
from mcp_types import Tool
from pydantic import BaseModel, SecretStr

from trunkline.errors import StartRefused
from trunkline.toolsets.builtin import demo
from trunkline.toolsets.changes import Listener, change_of
from trunkline.toolsets.composed import Composed
from trunkline.toolsets.direct import DirectTool
from trunkline.toolsets.hosted import Toolset, discover, load, toolset
from trunkline.toolsets.member import Member, stop_tracing
from trunkline.toolsets.names import Names
from trunkline.toolsets.offers import learn
from trunkline.toolsets.parameters import Tools
from trunkline.toolsets.request_state import bind_state, derive_keys, share_state

logger = logging.getLogger(__name__)

KEPT_COMPOSITIONS = 1_024
"""Servers kept for distinct sets of switches; one of two toolsets takes 7 kB and 40 us to make."""


class Switch(Protocol):
    """A toolset's switch at a tenant; hashable."""

    @property
    def name(self) -> str:
        """The toolset's name."""
        ...

    @property
    def enabled(self) -> bool:
        """Whether it is on."""
        ...


@dataclass(frozen=True, slots=True)
class Hosted:
    """A server to run a tenant's messages through, and what its handlers find as lifespan state."""

    server: Server[Any]
    lifespan_state: Any
    tools: Tools | None
    """Those that the server is known to list; None where it lists none, and answers unknown names itself."""
    repeatable: frozenset[str]
    """Tools, by the names that clients use, whose authors say that calling them twice does no harm."""
    direct: Callable[[str], DirectTool | None]
    """The tool that clients know by a name, if it may be called with nothing around it."""


def gather(specs: Iterable[str] = ()) -> tuple[Toolset, ...]:
    """The toolsets of this process: the builtin one, those of installed packages, and those named `module:object`.

    Raises:
        StartRefused: one of them cannot be loaded, or two different servers have the same name or are configured by
            the same class, which is what a handler asks for.
    """
    taken: dict[str, Toolset] = {}
    configured: dict[type[BaseModel], str] = {}
    for candidate in (toolset(demo, "builtin"), *discover(), *(load(spec) for spec in specs)):
        first = taken.setdefault(candidate.name, candidate)
        if first.server is not candidate.server:
            raise StartRefused(
                f"Two MCP servers are called '{candidate.name}' ({first.source} and {candidate.source}); "
                "give one of them another name."
            )
        if candidate.config is not None and configured.setdefault(candidate.config, first.name) != first.name:
            raise StartRefused(
                f"The toolsets '{configured[candidate.config]}' and '{first.name}' have the same class as their "
                "trunkline_config; derive one of its own for each."
            )
    return tuple(taken.values())


class Catalog:
    """The toolsets that a worker hosts.

    Entered, it has run every server's own lifespan once and knows what each offers; left, in the same task, it ends
    them in reverse order.

    Raises:
        StartRefused: on entering, where a server's lifespan fails to begin.
    """

    def __init__(
        self, toolsets: Sequence[Toolset], *, secret: SecretStr | None = None, keep: int = KEPT_COMPOSITIONS
    ) -> None:
        self._toolsets = tuple(toolsets)
        self._state_keys = derive_keys(secret) if secret is not None and secret.get_secret_value() else None
        self._keep = keep
        self._members: dict[str, Member] = {}
        self._served: OrderedDict[tuple[Switch, ...], Hosted] = OrderedDict()
        self._missed: set[str] = set()
        self._listener: Listener | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for each in self._toolsets:
                if self._state_keys is not None:
                    share_state(each.server, each.name, self._state_keys)
                bind_state(each.server)
                self._members[each.name] = await _begin(each, stack)
                if each.bus is not None:
                    stack.callback(each.bus.subscribe(partial(self._heard, each.name)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._served.clear()
        self._members.clear()
        await self._stack.__aexit__(kind, error, trace)

    def listen(self, listener: Listener) -> None:
        """Have `listener` hear what the servers announce; what they announced before is not told."""
        self._listener = listener

    def _heard(self, toolset: str, event: ServerEvent) -> None:
        change = change_of(event)
        if change.kind == "tools":
            for switches, hosted in self._served.items():
                if hosted.tools and any(switch.name == toolset for switch in switches):
                    hosted.tools.clear()  # to be listed again when one is called
        if self._listener is not None:
            self._listener(toolset, change)

    @property
    def names(self) -> tuple[str, ...]:
        """What can be switched on here."""
        return tuple(each.name for each in self._toolsets)

    @property
    def toolsets(self) -> tuple[Toolset, ...]:
        """What can be switched on here, as it was found."""
        return self._toolsets

    @property
    def models(self) -> dict[str, type[BaseModel]]:
        """By toolset, what tenants may configure of it."""
        return {each.name: each.config for each in self._toolsets if each.config is not None}

    def server_for(self, switches: tuple[Switch, ...]) -> Hosted:
        """The server for tenants with these switches, in the order in which they were first switched on.

        With one toolset on whose names all stay, it is the author's own object. Tenants with equal switches share it.
        """
        hosted = self._served.get(switches)
        if hosted is None:
            hosted = self._served[switches] = self._compose(switches)
            if len(self._served) > self._keep:
                self._served.popitem(last=False)
        else:
            self._served.move_to_end(switches)
        return hosted

    def _compose(self, switches: tuple[Switch, ...]) -> Hosted:
        tools, prompts = Names(), Names()
        members: list[Member] = []
        listed: Tools = {}
        repeatable: set[str] = set()
        for switch in switches:
            member = self._members.get(switch.name)
            if member is None:
                self._miss(switch)
                continue
            # Those switched off keep their names too: what comes after them must not be renamed by a switch.
            seen = {tools.add(member.name, tool.name): tool for tool in member.offer.tools}
            for prompt in member.offer.prompts:
                prompts.add(member.name, prompt)
            if switch.enabled:
                members.append(member)
                listed |= {name: member.offer.with_headers.get(tool.name) for name, tool in seen.items()}
                repeatable |= {name for name, tool in seen.items() if _harmless_twice(tool)}
        if len(members) == 1 and tools.kept(members[0].name) and prompts.kept(members[0].name):
            only = members[0]
            known = listed if only.serves("tools/list") else None
            return Hosted(only.server, only.state, known, frozenset(repeatable), only.direct.find)
        composed = Composed(members, tools, prompts)
        return Hosted(composed, {}, listed, frozenset(repeatable), composed.direct)

    def _miss(self, switch: Switch) -> None:
        if switch.enabled and switch.name not in self._missed:
            self._missed.add(switch.name)
            logger.warning("toolset %s is switched on for a tenant but not hosted by this worker", switch.name)


async def _begin(each: Toolset, stack: AsyncExitStack) -> Member:
    stop_tracing(each.server)
    try:
        state = await stack.enter_async_context(each.server.lifespan(each.server))
    except Exception as error:
        raise StartRefused(
            f"The toolset '{each.name}' did not start: its lifespan failed with {type(error).__name__}: {error}"
        ) from error
    member = Member(each.name, each.server, state)
    member.offer = await learn(member)
    return member


def _harmless_twice(tool: Tool) -> bool:
    hints = tool.annotations
    return hints is not None and (hints.read_only_hint is True or hints.idempotent_hint is True)
