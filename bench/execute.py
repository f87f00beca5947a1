"""What station 4 costs alone: CPU of one small `tools/call` in the executor, without Redis, in each era.

`python -m bench.execute` prints microseconds of CPU per call, the least of several rounds: of a tool that is called
directly, as most are, and of the same with a `Context`, for which all that the SDK makes of a request is needed.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping

import orjson
import uvloop
from mcp.server.mcpserver import Context, MCPServer
from pydantic import SecretStr

from bench import TOOL
from bench.echo import server as direct
from trunkline.envelope import Call, Caller
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog
from trunkline.toolsets.hosted import toolset
from trunkline.worker.clients import CallClient
from trunkline.worker.context import SessionContext
from trunkline.worker.executor import Executor

ROUNDS = 7
CALLS = 2_000
CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
PREFIX = "io.modelcontextprotocol/"
ENVELOPE = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientInfo": CLIENT["clientInfo"],
    f"{PREFIX}clientCapabilities": {},
}

with_context: MCPServer = MCPServer("bench", log_level="WARNING")


@with_context.tool(name=TOOL)
async def echo(text: str, ctx: Context) -> str:
    """Give back the text, having asked for the context."""
    return text


def calls() -> Mapping[str, Call]:
    """The same call as each transport brings it."""
    caller = Caller("0" * 32, "bench", "key_1", ("mcp:call",), ("*",), None)
    params = {"name": TOOL, "arguments": {"text": "x" * 32}}
    older = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    modern = {**older, "params": {**params, "_meta": ENVELOPE}}
    context = SessionContext("2025-06-18", CLIENT).encode()
    call = Call("c" * 32, "0" * 32, "5" * 32, orjson.dumps(older), caller.encode(), context, 1, 2, 0, b"1-1")
    return {
        "sse": call,
        "http": call._replace(transport="http"),
        "modern": call._replace(transport="modern", body=orjson.dumps(modern), context=b""),
    }


async def _run(executor: Executor, call: Call, times: int) -> float:
    """Microseconds of CPU per call."""
    caller, client = Caller.decode(call.caller), CallClient(None, None)  # type: ignore[arg-type]
    switches = (ToolsetSwitch("bench", True),)
    began = time.process_time()
    for _ in range(times):
        answer = await executor.prepare(call, caller, switches, client).run()
    spent = time.process_time() - began
    assert answer.outcome == "ok", answer
    return spent / times * 1e6


async def _measure(server: MCPServer) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in calls()}
    async with Catalog([toolset(server, "bench")], secret=SecretStr("s" * 32)) as catalog:
        executor = Executor(catalog)
        for _ in range(ROUNDS):
            for name, call in calls().items():
                gc.collect()
                found[name].append(await _run(executor, call, CALLS))
    return found


async def main() -> None:
    for kind, server in (("direct", direct), ("context", with_context)):
        for name, each in (await _measure(server)).items():
            print(f"{kind:8} {name:8} {min(each):6.1f} us  (median {sorted(each)[len(each) // 2]:.1f})")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
