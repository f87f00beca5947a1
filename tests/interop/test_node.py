"""Clients that run on Node: both SDKs for TypeScript, `mcp-remote`, and Inspector on the command line."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from tests.interop.desk import TOOLS
from tests.interop.test_python import PATIENCE, Guest
from tests.node.programs import HERE, needs_node, node, program
from tests.replicas import Replicas

pytestmark = needs_node


async def said_by(command: list[str], **environment: str) -> str:
    """What a program that ends by itself, and well, has written."""
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            said, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return said.decode()


@pytest.mark.parametrize(
    ("script", "mode", "path", "version"),
    [
        ("sdk.mjs", "sse", "sse", None),
        ("sdk.mjs", "streamable", "mcp", "2025-11-25"),
        ("sdk2.mjs", "legacy", "mcp", "2025-11-25"),
        ("sdk2.mjs", "auto", "mcp", "2026-07-28"),
    ],
)
async def test_the_sdk_for_typescript_lists_calls_is_asked_and_hears_of_progress(
    desk: Replicas, script: str, mode: str, path: str, version: str | None
) -> None:
    said = json.loads(await said_by([node(), str(HERE / script), mode, desk.url(path)], MCP_KEY=desk.key))
    assert said == {
        "version": version,
        "tools": sorted(TOOLS),
        "add": "8",
        "countdown": "counted down from 1",
        "progress": ["1 to go", "0 to go"],
        "greet": "Welcome, Ada!",
        "entitle": "On engines: a text",
        "echoes": [str(number) for number in range(20)],
    }


@pytest.mark.parametrize(("path", "transport"), [("mcp", "http-only"), ("sse", "sse-only")])
async def test_mcp_remote_carries_a_client_that_speaks_over_pipes(
    desk: Replicas, path: str, transport: str, tmp_path: Path
) -> None:
    command, *arguments = program("mcp-remote", "dist/proxy.js")
    arguments += [desk.url(path), "--transport", transport, "--header", "Authorization:${AUTH}"]
    environment = {**os.environ, "AUTH": f"Bearer {desk.key}", "MCP_REMOTE_CONFIG_DIR": str(tmp_path)}
    bridge = StdioServerParameters(command=command, args=arguments, env=environment)
    guest = Guest()
    with (tmp_path / "log").open("w") as log:
        async with (
            asyncio.timeout(PATIENCE),
            stdio_client(bridge, errlog=log) as streams,
            ClientSession(*streams, elicitation_callback=guest.answer, sampling_callback=guest.write) as session,
        ):
            await session.initialize()
            assert {tool.name for tool in (await session.list_tools()).tools} == TOOLS
            assert (await session.call_tool("add", {"a": 3, "b": 5})).content[0].text == "8"
            await session.call_tool("countdown", {"start": 1}, progress_callback=guest.listen)
            assert guest.heard == [(0, 1, "1 to go"), (1, 1, "0 to go")]
            assert (await session.call_tool("greet", {})).content[0].text == "Welcome, Ada!"
            assert (await session.call_tool("entitle", {"text": "a text"})).content[0].text == "On engines: a text"


@pytest.mark.parametrize(
    ("path", "options"),
    [("sse", ["--transport", "sse"]), ("mcp", ["--protocol-era", "legacy"]), ("mcp", ["--protocol-era", "modern"])],
)
async def test_inspector_s_command_line_lists_and_calls(
    desk: Replicas, path: str, options: list[str], tmp_path: Path
) -> None:
    command = program("@modelcontextprotocol/inspector", "clients/launcher/build/index.js")
    command += ["--cli", desk.url(path), *options, "--header", f"Authorization: Bearer {desk.key}", "--method"]
    listed = json.loads(await said_by([*command, "tools/list"], HOME=str(tmp_path)))
    assert {tool["name"] for tool in listed["tools"]} == TOOLS
    arguments = ["tools/call", "--tool-name", "add", "--tool-arg", "a=3", "b=5"]
    called = json.loads(await said_by([*command, *arguments], HOME=str(tmp_path)))
    assert called["content"][0]["text"] == "8"
