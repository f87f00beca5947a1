"""What Trunkline costs beside the SDK's own single-process server: `python -m bench --help`.

`echo` is the tool both serve, `sdk_server` the other side, `servers` starts and samples processes, `wire` and
`clients` are the client, `phases` what is measured, `report` the tables.
"""

TRANSPORTS = {
    "sse": "HTTP+SSE (2024-11-05)",
    "http": "streamable HTTP with sessions (2025-11-25)",
    "modern": "streamable HTTP without sessions (2026-07-28)",
}
"""By the names that options use."""

TOOL = "bench_echo"
"""Name of the tool: one of its own, so that no other toolset of the tenant can make it longer."""
TOOL_ONCE = "bench_echo_once"
"""The same without hints: Trunkline then records each start before it begins."""
