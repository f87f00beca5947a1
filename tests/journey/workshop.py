"""An MCP server whose tools wait for the test, fail, grow and report on command; its author knows no Trunkline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any, Literal

from anyio import from_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel

NAME = "Workshop"
PATH = "tests.journey.workshop:mcp"
SECRET = "the password is hunter2"

_openings = count(1)


class Gate:
    """Where calls wait until the test lets them go; it knows how many are inside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened = asyncio.Event()
        self.unblocked = threading.Event()
        self.inside = self.most = self.entered = self.cancelled = 0
        self._changed = asyncio.Condition()
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self.inside += 1
            self.entered += 1
            self.most = max(self.most, self.inside)
        self._loop.call_soon_threadsafe(self._tell)
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            with self._lock:
                self.inside -= 1
            self._loop.call_soon_threadsafe(self._tell)

    def open(self) -> None:
        self.opened.set()
        self.unblocked.set()

    async def until(self, **wanted: int) -> None:
        """Wait until the named counts are what they should be."""
        async with asyncio.timeout(15), self._changed:
            await self._changed.wait_for(lambda: all(getattr(self, name) == n for name, n in wanted.items()))

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = self._loop.create_task(tell())
        _telling.add(task)
        task.add_done_callback(_telling.discard)


_telling: set[asyncio.Task[None]] = set()
gates: dict[str, Gate] = {}


@asynccontextmanager
async def shift(_: MCPServer[int]) -> AsyncIterator[int]:
    """Each worker that hosts this server has its own number."""
    yield next(_openings)


mcp: MCPServer[int] = MCPServer(NAME, lifespan=shift)


@mcp.tool()
async def wait(gate: str) -> str:
    """Wait until the gate opens."""
    with gates[gate].counted():
        await gates[gate].opened.wait()
    return "through"


@mcp.tool(annotations=ToolAnnotations(idempotent_hint=True))
async def wait_again(gate: str) -> str:
    """The same, and no harm in doing it twice."""
    return await wait(gate)


@mcp.tool()
def block(gate: str) -> str:
    """The same, holding a thread."""
    with gates[gate].counted():
        gates[gate].unblocked.wait(15)
    return str(threading.get_ident())


@mcp.tool()
async def steps(gate: str, number: int, ctx: Context[int]) -> str:
    """Report progress and a line of each level, then wait at the gate, or not."""
    for step in range(number):
        await ctx.report_progress(step, number)
        for level in ("debug", "info", "warning", "error"):
            await ctx.log(level, f"{level} {step}")
    if gate:
        await wait(gate)
    return "stepped"


@mcp.tool()
async def plod(gate: str, ctx: Context[int]) -> str:
    """Report progress without end until the gate opens."""
    passed = 0
    with gates[gate].counted():
        while not gates[gate].opened.is_set():
            passed += 1
            await ctx.report_progress(passed)
            await asyncio.sleep(0.1)
    return str(passed)


@mcp.tool()
async def client(ctx: Context[int]) -> dict[str, Any]:
    """What this server knows of the client, and on which worker it runs."""
    params = ctx.session.client_params
    assert params is not None
    return {
        "version": ctx.session.protocol_version,
        "name": params.client_info.name,
        "sampling": params.capabilities.sampling is not None,
        "worker": ctx.request_context.lifespan_context,
    }


@mcp.tool()
async def grow(size: int) -> CallToolResult:
    """A text of that many characters."""
    return CallToolResult(content=[TextContent(type="text", text="x" * size)])


@mcp.tool()
async def odd(what: Literal["surrogate", "integer", "nan"]) -> CallToolResult:
    """Values that JSON libraries disagree about."""
    value = {"surrogate": "\ud800", "integer": 2**70 + 1, "nan": float("nan")}[what]
    return CallToolResult(content=[TextContent(type="text", text="odd")], structured_content={"value": value})


@mcp.tool()
async def whole(number: int) -> str:
    """The number in decimal."""
    return str(number)


@mcp.tool()
async def fail() -> str:
    """A tool with a mistake in it."""
    raise RuntimeError(SECRET)


@mcp.tool()
async def leave() -> str:
    """Try to end the process."""
    raise SystemExit(3)


@mcp.tool()
def leave_from_a_thread() -> str:
    """Try to end the process from a thread."""
    raise SystemExit(4)


@mcp.tool()
async def give_up() -> str:
    """Await something that was cancelled."""
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task
    return "never"


@mcp.tool()
async def refuse(text: str = "") -> str:
    """A protocol error whose text no encoding can write."""
    raise MCPError(code=-32050, message=text or "\ud800")


class Colour(BaseModel):
    name: str


@mcp.tool()
async def choose(ctx: Context[int]) -> str:
    """Ask the user for a colour."""
    answer = await ctx.elicit("Which colour?", Colour)
    return answer.data.name if answer.action == "accept" else answer.action


@mcp.tool(annotations=ToolAnnotations(idempotent_hint=True))
async def choose_again(ctx: Context[int]) -> str:
    """The same, and no harm in asking twice."""
    return await choose(ctx)


@mcp.tool()
async def choose_briefly(ctx: Context[int]) -> str:
    """Ask the user for a colour, and take blue where none comes in time."""
    try:
        return await choose(ctx)
    except MCPError as error:
        return f"blue, for {error.code}"


@mcp.tool()
def choose_in_a_thread(ctx: Context[int]) -> str:
    """The same, holding a thread."""
    return from_thread.run(choose, ctx)


@mcp.tool()
async def ask(ctx: Context[int]) -> str:
    """Ask the client for its roots."""
    return " ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)


@mcp.tool()
async def announce(
    what: Literal["tools", "prompts", "resources"], way: Literal["session", "bus"], ctx: Context[int]
) -> str:
    """Announce that a list has changed, in the way of either era."""
    if way == "bus":
        await getattr(ctx, f"notify_{what}_changed")()
    else:
        await getattr(ctx.session, f"send_{what[:-1]}_list_changed")()
    return what
