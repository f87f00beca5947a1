"""What `trunkline dev` prints when it is ready: addresses, a key, and what common clients are told to connect.

The forms are those that the clients document: Cursor and Claude Desktop read `mcpServers`, VS Code `servers`,
Windsurf calls the address `serverUrl`, and Claude Desktop, which speaks stdio only, goes through mcp-remote, where a
space after the colon of a header breaks it.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

_NAME = "trunkline"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a tenant is reached, and with what."""

    url: str
    sse_url: str
    api_key: str


def describe(address: Address, dev_json: Path) -> str:
    """The whole text, ready to print."""
    first_call = f"""{_command()} call {address.sse_url} add '{{"a": 3, "b": 5}}'"""
    parts = [f"{title}:\n\n{_indented(text)}" for title, text in client_snippets(address).items()]
    # Last, where the eye is: the rest has scrolled away.
    parts += [
        f"Trunkline is ready at {address.url}",
        f"  SSE URL  {address.sse_url}\n  API key  {address.api_key}",
        f"Call a tool:\n\n  export TRUNKLINE_API_KEY={address.api_key}\n  {first_call}",
        f"All of this for programs: {dev_json}\nCtrl-C stops everything; the data stays for the next start.",
    ]
    return "\n\n".join(parts) + "\n"


def client_snippets(address: Address) -> dict[str, str]:
    """What to run, write or paste, by client. Those for a shell take the key from TRUNKLINE_API_KEY."""
    bearer = f"Bearer {address.api_key}"
    headers = {"Authorization": bearer}
    desktop = {
        "command": "npx",
        "args": ["-y", "mcp-remote", address.sse_url, "--transport", "sse-only", "--header", "Authorization:${AUTH}"],
        "env": {"AUTH": bearer},
    }
    vs_code = {
        "inputs": [{"type": "promptString", "id": "key", "description": "Trunkline API key", "password": True}],
        "servers": {
            _NAME: {"type": "sse", "url": address.sse_url, "headers": {"Authorization": "Bearer ${input:key}"}}
        },
    }
    return {
        "curl (opens the stream, ends with Ctrl-C)": (
            f'curl -N -H "Authorization: Bearer $TRUNKLINE_API_KEY" {address.sse_url}'
        ),
        "Claude Code": (
            f"claude mcp add --transport sse {_NAME} {address.sse_url} "
            '--header "Authorization: Bearer $TRUNKLINE_API_KEY"'
        ),
        "Cursor, ~/.cursor/mcp.json": json.dumps(
            {"mcpServers": {_NAME: {"url": address.sse_url, "headers": headers}}}
        ),
        "VS Code, .vscode/mcp.json (asks for the key)": json.dumps(vs_code),
        "Windsurf, ~/.codeium/windsurf/mcp_config.json": json.dumps(
            {"mcpServers": {_NAME: {"serverUrl": address.sse_url, "headers": headers}}}
        ),
        "Claude Desktop, claude_desktop_config.json (needs Node.js)": json.dumps({"mcpServers": {_NAME: desktop}}),
        "Python (pip install mcp)": _PYTHON.format(url=address.sse_url),
    }


_PYTHON = """\
import asyncio, os
from mcp import ClientSession
from mcp.client.sse import sse_client

async def main():
    headers = {{"Authorization": "Bearer " + os.environ["TRUNKLINE_API_KEY"]}}
    async with sse_client("{url}", headers=headers) as streams, ClientSession(*streams) as session:
        await session.initialize()
        print((await session.call_tool("add", {{"a": 3, "b": 5}})).content[0].text)

asyncio.run(main())"""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())


def _command() -> str:
    """How this shell calls us: by name, or, in a clone whose environment is not activated, by path."""
    here = Path(sys.executable).with_name("trunkline")
    if shutil.which("trunkline") or not here.exists():
        return "trunkline"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
