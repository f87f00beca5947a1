from __future__ import annotations

import ast
import json
import shlex
import tomllib
from pathlib import Path

import pytest

from trunkline.snippets import Address, client_snippets, describe

ADDRESS = Address(
    "http://127.0.0.1:8000", "http://127.0.0.1:8000/t/demo/mcp", "http://127.0.0.1:8000/t/demo/sse", "tlk_a.b.c"
)


def snippet(client: str) -> str:
    return next(text for title, text in client_snippets(ADDRESS).items() if title.startswith(client))


def test_the_text_names_address_and_key_and_how_to_make_a_first_call() -> None:
    text = describe(ADDRESS, Path("data/dev.json"))
    assert "SSE URL  http://127.0.0.1:8000/t/demo/sse" in text
    assert "API key  tlk_a.b.c" in text
    assert "MCP URL  http://127.0.0.1:8000/t/demo/mcp" in text
    assert """call http://127.0.0.1:8000/t/demo/mcp add '{"a": 3, "b": 5}'""" in text
    assert "data/dev.json" in text


def test_every_client_of_the_list_has_a_snippet() -> None:
    titles = " ".join(client_snippets(ADDRESS))
    for client in (
        "curl",
        "Claude Code",
        "Cursor",
        "VS Code",
        "Windsurf",
        "Codex",
        "Claude Desktop",
        "Inspector",
        "Python",
    ):
        assert client in titles


def test_cursor_reads_url_and_headers_under_mcp_servers() -> None:
    server = json.loads(snippet("Cursor"))["mcpServers"]["trunkline"]
    assert server == {"url": ADDRESS.mcp_url, "headers": {"Authorization": "Bearer tlk_a.b.c"}}


def test_windsurf_calls_the_address_server_url() -> None:
    server = json.loads(snippet("Windsurf"))["mcpServers"]["trunkline"]
    assert server["serverUrl"] == ADDRESS.mcp_url
    assert "url" not in server


def test_vs_code_is_told_the_transport_and_asks_for_the_key() -> None:
    document = json.loads(snippet("VS Code"))
    assert document["servers"]["trunkline"]["type"] == "http"
    assert document["servers"]["trunkline"]["headers"]["Authorization"] == "Bearer ${input:key}"
    assert [question["id"] for question in document["inputs"]] == ["key"]
    assert "tlk_" not in json.dumps(document)


def test_claude_desktop_gets_the_header_without_a_space_after_its_colon() -> None:
    server = json.loads(snippet("Claude Desktop"))["mcpServers"]["trunkline"]
    assert "Authorization:${AUTH}" in server["args"]
    assert server["env"] == {"AUTH": "Bearer tlk_a.b.c"}


def test_codex_reads_the_key_from_the_environment() -> None:
    server = tomllib.loads(snippet("Codex"))["mcp_servers"]["trunkline"]
    assert server == {"url": ADDRESS.mcp_url, "bearer_token_env_var": "TRUNKLINE_API_KEY"}


def test_what_curl_sends_is_a_stateless_request_that_says_the_same_in_head_and_body() -> None:
    words = shlex.split(snippet("curl").replace("\\\n", ""))
    body = json.loads(words[words.index("-d") + 1])
    assert f"Mcp-Method: {body['method']}" in words
    assert f"Mcp-Name: {body['params']['name']}" in words
    version = body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"]
    assert f"MCP-Protocol-Version: {version}" in words


@pytest.mark.parametrize("client", ["curl", "Claude Code", "Inspector"])
def test_a_shell_snippet_is_one_command_that_takes_the_key_from_the_environment(client: str) -> None:
    words = shlex.split(snippet(client))
    assert "Authorization: Bearer $TRUNKLINE_API_KEY" in words
    assert ADDRESS.mcp_url in words


def test_the_python_snippet_is_python() -> None:
    ast.parse(snippet("Python"))
