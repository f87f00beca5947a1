"""How to connect: what `trunkline dev` prints and signing up answers, for common clients.

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
    mcp_url: str
    """Streamable HTTP."""
    sse_url: str
    """HTTP+SSE, for clients that know no other."""
    api_key: str


def describe(address: Address, dev_json: Path) -> str:
    """The whole text, ready to print."""
    first_call = f"""{_command()} call {address.mcp_url} add '{{"a": 3, "b": 5}}'"""
    parts = [f"{title}:\n\n{_indented(text)}" for title, text in client_snippets(address).items()]
    # Last, where the eye is: the rest has scrolled away.
    parts += [
        f"Trunkline is ready at {address.url}",
        f"  MCP URL  {address.mcp_url}\n  SSE URL  {address.sse_url}\n  API key  {address.api_key}",
        f"Call a tool:\n\n  export TRUNKLINE_API_KEY={address.api_key}\n  {first_call}",
        f"A tenant of your own:\n\n{_indented(sign_up_snippet(address.url))}",
        f"All of this for programs: {dev_json}\nCtrl-C stops everything; the data stays for the next start.",
    ]
    return "\n\n".join(parts) + "\n"


def sign_up_snippet(url: str) -> str:
    """How to sign up from a terminal; the answer has a key, and how to use it."""
    return (
        f"curl {url}/v1/signup -H 'Content-Type: application/json' \\\n"
        """  -d '{"slug": "acme", "email": "you@example.com", "password": "twelve characters or more"}'"""
    )


def client_snippets(address: Address) -> dict[str, str]:
    """What to run, write or paste, by client. Those for a shell take the key from TRUNKLINE_API_KEY."""
    url, bearer = address.mcp_url, f"Bearer {address.api_key}"
    headers = {"Authorization": bearer}
    desktop = {
        "command": "npx",
        "args": ["-y", "mcp-remote", url, "--transport", "http-only", "--header", "Authorization:${AUTH}"],
        "env": {"AUTH": bearer},
    }
    vs_code = {
        "inputs": [{"type": "promptString", "id": "key", "description": "Trunkline API key", "password": True}],
        "servers": {_NAME: {"type": "http", "url": url, "headers": {"Authorization": "Bearer ${input:key}"}}},
    }
    return {
        "curl (one stateless request)": _CURL.format(url=url),
        "Claude Code": (
            f'claude mcp add --transport http {_NAME} {url} --header "Authorization: Bearer $TRUNKLINE_API_KEY"'
        ),
        "Cursor, ~/.cursor/mcp.json": json.dumps({"mcpServers": {_NAME: {"url": url, "headers": headers}}}),
        "VS Code, .vscode/mcp.json (asks for the key)": json.dumps(vs_code),
        "Windsurf, ~/.codeium/windsurf/mcp_config.json": json.dumps(
            {"mcpServers": {_NAME: {"serverUrl": url, "headers": headers}}}
        ),
        "Codex, ~/.codex/config.toml": (
            f'[mcp_servers.{_NAME}]\nurl = "{url}"\nbearer_token_env_var = "TRUNKLINE_API_KEY"'
        ),
        "Claude Desktop, claude_desktop_config.json (needs Node.js)": json.dumps({"mcpServers": {_NAME: desktop}}),
        "Inspector (needs Node.js)": (
            f"npx @modelcontextprotocol/inspector --cli {url} --transport http "
            '--header "Authorization: Bearer $TRUNKLINE_API_KEY" --method tools/list'
        ),
        "Python (pip install mcp)": _PYTHON.format(url=url),
    }


_CURL = """\
curl {url} \\
  -H "Authorization: Bearer $TRUNKLINE_API_KEY" -H "Content-Type: application/json" -H "Accept: application/json" \\
  -H "MCP-Protocol-Version: 2026-07-28" -H "Mcp-Method: tools/call" -H "Mcp-Name: add" \\
  -d '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"add","arguments":{{"a":3,"b":5}},
       "_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
                "io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}'"""

_PYTHON = """\
import asyncio, os
from httpx2 import AsyncClient
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

async def main():
    headers = {{"Authorization": "Bearer " + os.environ["TRUNKLINE_API_KEY"]}}
    async with (
        AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client("{url}", http_client=http)) as client,
    ):
        print((await client.call_tool("add", {{"a": 3, "b": 5}})).content[0].text)

asyncio.run(main())"""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())


def _command() -> str:
    """How this shell calls us: by name, or, in a clone whose environment is not activated, by path."""
    here = Path(sys.executable).with_name("trunkline")
    if shutil.which("trunkline") or not here.exists():
        return "trunkline"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
