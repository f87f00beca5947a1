"""Clients that we did not write, and our own command, against what `trunkline dev` has started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from mcp import ClientSession
from mcp.client.sse import sse_client
from tests.acceptance.test_dev import Dev, ready
from tests.stores import open_directory

from trunkline.snippets import Address, client_snippets


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with open_directory() as directory, ready(directory) as running:
        yield running


def trunkline_call(*arguments: str, key: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trunkline", "call", *arguments]
    env = os.environ | {"TRUNKLINE_API_KEY": key}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


async def test_the_sdk_s_sse_client_lists_and_calls_tools_and_hears_of_progress(dev: Dev) -> None:
    known = dev.json
    heard: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    headers = {"Authorization": f"Bearer {known['api_key']}"}
    async with sse_client(known["sse_url"], headers=headers) as streams, ClientSession(*streams) as session:
        greeting = await session.initialize()
        assert greeting.protocol_version == "2025-11-25"
        assert {"add", "echo", "countdown", "whoami"} <= {tool.name for tool in (await session.list_tools()).tools}
        added = await session.call_tool("add", {"a": 3, "b": 5})
        assert (added.is_error, added.content[0].text, added.structured_content) == (False, "8", {"result": 8})
        counted = await session.call_tool("countdown", {"start": 3, "interval": 0.05}, progress_callback=on_progress)
        assert counted.content[0].text == "counted down from 3"
    assert heard == [(0, 3, "3 to go"), (1, 3, "2 to go"), (2, 3, "1 to go"), (3, 3, "done")]


async def test_what_a_tool_refuses_reaches_the_sdk_as_the_specification_says(dev: Dev) -> None:
    known = dev.json
    headers = {"Authorization": f"Bearer {known['api_key']}"}
    async with sse_client(known["sse_url"], headers=headers) as streams, ClientSession(*streams) as session:
        await session.initialize()
        refused = await session.call_tool("add", {"a": "three"})
        assert refused.is_error
        assert "validation error" in refused.content[0].text
        assert (await session.call_tool("add", {"a": 3, "b": 5})).content[0].text == "8"


@pytest.mark.parametrize("url", ["sse_url", "mcp_url"])
def test_trunkline_call_prints_the_answer_and_ends_with_0(dev: Dev, url: str) -> None:
    done = trunkline_call(dev.json[url], "add", '{"a":3,"b":5}', key=dev.json["api_key"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "8\n", "")


@pytest.mark.parametrize("url", ["sse_url", "mcp_url"])
def test_trunkline_call_with_a_wrong_key_says_so_and_ends_with_1(dev: Dev, url: str) -> None:
    done = trunkline_call(dev.json[url], "add", '{"a":3,"b":5}', key=dev.json["api_key"][:-6] + "AAAAAA")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The server refused the API key: ")
    assert done.stderr.count("\n") == 1


def test_trunkline_call_with_arguments_that_are_not_json_says_so_and_ends_with_2(dev: Dev) -> None:
    done = trunkline_call(dev.json["sse_url"], "add", "{a:3}", key=dev.json["api_key"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("The arguments are not JSON")
    assert done.stderr.count("\n") == 1


def test_trunkline_call_of_a_tool_that_fails_prints_its_words_to_standard_error_and_ends_with_1(dev: Dev) -> None:
    done = trunkline_call(dev.json["sse_url"], "add", '{"a":3}', key=dev.json["api_key"])
    assert (done.returncode, done.stdout) == (1, "")
    assert "b" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("client", ["Python", "curl"])
def test_what_is_printed_for_programs_does_what_it_says(dev: Dev, client: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    known = dev.json
    address = Address(known["url"], known["mcp_url"], known["sse_url"], known["api_key"])
    text = next(text for title, text in client_snippets(address).items() if title.startswith(client))
    command = [sys.executable, "-c", text] if client == "Python" else ["sh", "-c", f"{text} --silent"]
    env = os.environ | {"TRUNKLINE_API_KEY": known["api_key"]}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "8" in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_reads_the_endpoint_event(dev: Dev) -> None:
    known = dev.json
    command = ["curl", "-sN", "-H", f"Authorization: Bearer {known['api_key']}", known["sse_url"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        try:
            assert curl.stdout is not None
            name, value = curl.stdout.readline(), curl.stdout.readline()
            if name.startswith("id:"):
                name, value = value, curl.stdout.readline()
        finally:
            curl.terminate()
    assert name == "event: endpoint\n"
    assert value.startswith("data: /t/demo/messages?session_id=")
