"""What Trunkline costs beside the SDK's own single-process SSE server: `python -m bench --help`.

`echo` is the tool both serve, `sdk_server` the other side, `servers` starts and samples processes, `load` is
the client, `phases` what is measured, `report` the tables.
"""

TOOL = "bench_echo"
"""Name of the tool: one of its own, so that no other toolset of the tenant can make it longer."""
TOOL_ONCE = "bench_echo_once"
"""The same without hints: Trunkline then records each start before it begins."""
