"""What station 4 costs alone: CPU of one small `tools/call` in the executor, without Redis, in each era.

`python -m bench.execute` prints microseconds of CPU per call, the least of several rounds.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping

import orjson
import uvloop
from pydantic import SecretStr

from bench import TOOL
from trunkline.envelope import Call, Caller
from trunkline.tenants.model import ToolsetSwitch
from trunkline.toolsets.catalog import Catalog, gather
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


async def main() -> None:
    async with Catalog(gather(["bench.echo:server"]), secret=SecretStr("s" * 32)) as catalog:
        executor = Executor(catalog)
        found: dict[str, list[float]] = {name: [] for name in calls()}
        for _ in range(ROUNDS):
            for name, call in calls().items():
                gc.collect()
                found[name].append(await _run(executor, call, CALLS))
        for name, each in found.items():
            print(f"{name:8} {min(each):6.1f} us  (median {sorted(each)[len(each) // 2]:.1f})")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
