"""MCP server objects, found by import path or entry point and hosted as their authors wrote them."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import SubscriptionBus
from pydantic import BaseModel

from trunkline.errors import StartRefused
from trunkline.toolsets import request_state  # noqa: F401 - before any server is made: it remembers their policies
from trunkline.toolsets.changes import bus_of
from trunkline.toolsets.configurable import config_model
from trunkline.toolsets.names import slug

GROUP = "trunkline.toolsets"
"""Entry-point group in which an installed package names its servers, as `module:object`."""


@dataclass(frozen=True, slots=True)
class Toolset:
    """A server that tenants can switch on."""

    name: str
    """What tenants switch on and what collisions are prefixed with: at most 32 characters of `[A-Za-z0-9_-]`."""
    server: Server[Any]
    source: str
    """Where it was found, for people."""
    bus: SubscriptionBus | None = None
    """Where the server publishes what has changed."""
    config: type[BaseModel] | None = None
    """What tenants may configure of it."""

    @property
    def title(self) -> str:
        """One line for people, empty where the author gave none."""
        return self.server.title or self.server.description or ""


def discover() -> tuple[Toolset, ...]:
    """The servers that installed packages name in the entry-point group, in the order of their entry points' names.

    Raises:
        StartRefused: one of them cannot be loaded.
    """
    return tuple(load(entry.value) for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name))


def load(spec: str) -> Toolset:
    """Import `module:object`, the working directory included, as uvicorn does.

    The object is an `mcp` `Server` or `MCPServer`, or a function without arguments that returns one.

    Raises:
        StartRefused: there is no such thing, or it is something else; the sentence says which.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise StartRefused(f"'{spec}' does not name an MCP server; write it as module:object.")
    found: Any = _import(module_name)
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise StartRefused(
                f"The module '{module_name}' has no '{path}'; name the server object in it."
            ) from error
    return toolset(found, spec)


def toolset(found: object, source: str) -> Toolset:
    """Make a toolset of a server, or of what a function without arguments returns.

    Raises:
        StartRefused: it is no MCP server, its name leaves nothing to call it by, or tenants could not configure what
            it says that they may.
    """
    if not isinstance(found, Server | MCPServer) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise StartRefused(f"Calling '{source}' failed with {_said(error)}.") from error
    if inspect.iscoroutine(found):
        found.close()
    if not isinstance(found, Server | MCPServer):
        raise StartRefused(
            f"'{source}' is a {type(found).__name__}, not an MCP server; "
            "name an mcp Server or MCPServer, or a function without arguments that returns one."
        )
    name = slug(found.name)
    if not name:
        raise StartRefused(f"The MCP server '{source}' needs a name with letters or digits in it.")
    config = config_model(found, source)
    return Toolset(name=name, server=lowlevel(found), source=source, bus=bus_of(found), config=config)


def lowlevel(server: Server[Any] | MCPServer[Any]) -> Server[Any]:
    """The `Server` inside an `MCPServer`; the SDK's own client takes it from the same private place."""
    return server._lowlevel_server if isinstance(server, MCPServer) else server  # noqa: SLF001


def _import(module_name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise StartRefused(
                f"There is no module '{module_name}' here ({here}); check its name and where you start from."
            ) from error
        raise StartRefused(
            f"Importing '{module_name}' failed: it needs '{error.name}', which is not installed."
        ) from error
    except (Exception, SystemExit) as error:
        raise StartRefused(f"Importing '{module_name}' failed with {_said(error)}.") from error


def _said(error: BaseException) -> str:
    first_line = next(iter(str(error).splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
