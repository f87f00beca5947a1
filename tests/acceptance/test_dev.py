"""`trunkline dev` as a person runs it: what it prints, what it writes, and that it ends as orderly as it began."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from tests.stores import open_directory

from trunkline.client import call
from trunkline.dev.process import command_of, eventually, free_port
from trunkline.settings import Settings

SERVER = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("calculator")
print("a server that prints while it is imported")

@server.tool()
def add(a: int, b: int) -> int:
    return a * 100 + b
"""


@dataclass
class Dev:
    """One `trunkline dev`, with its output in files."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def out(self) -> str:
        return (self.directory / "out.txt").read_text()

    @property
    def err(self) -> str:
        return (self.directory / "err.txt").read_text()

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "data" / "dev.json").read_text())
        return found

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, command: str) -> psutil.Process:
        """Its `trunkline <command>` process."""
        return next(child for child in self.children() if child.cmdline()[2:4] == ["trunkline", command])

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def call(self, tool: str, **arguments: object) -> str:
        known = self.json
        return asyncio.run(call(known["sse_url"], tool, arguments, known["api_key"])).text

    def workers(self) -> int:
        """How many workers its API sees."""
        connection = http.client.HTTPConnection(urlsplit(self.json["url"]).netloc, timeout=5)
        connection.request("GET", "/readyz")
        document = json.loads(connection.getresponse().read())
        connection.close()
        return int(document["workers"])


@contextlib.contextmanager
def start(directory: Path, *arguments: str, port: int | None = None) -> Iterator[Dev]:
    """Start it; killed at the end if it still runs."""
    command = [sys.executable, "-m", "trunkline", "dev", "--data", "data", "--port", str(port or free_port())]
    with (directory / "out.txt").open("wb") as out, (directory / "err.txt").open("wb") as err:
        process = subprocess.Popen([*command, *arguments], cwd=directory, stdout=out, stderr=err)
    try:
        yield Dev(process, directory)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


@contextlib.contextmanager
def ready(directory: Path, *arguments: str, port: int | None = None) -> Iterator[Dev]:
    with start(directory, *arguments, port=port) as dev:
        assert eventually(lambda: "Ready after" in dev.err or dev.process.poll() is not None, 60)
        assert dev.process.poll() is None, dev.err
        yield dev


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with open_directory() as directory, ready(directory) as running:
        yield running


def gone(processes: list[psutil.Process], seconds: float = 20) -> bool:
    return eventually(lambda: not any(command_of(process.pid) for process in processes), seconds)


def test_it_prints_where_it_is_how_to_call_it_and_nothing_that_is_not_true(dev: Dev) -> None:
    known = dev.json
    assert f"Trunkline is ready at {known['url']}" in dev.out
    assert f"MCP URL  {known['mcp_url']}" in dev.out
    assert f"SSE URL  {known['sse_url']}" in dev.out
    assert f"API key  {known['api_key']}" in dev.out
    assert str(dev.directory / "data" / "dev.json") in dev.out


def test_its_progress_goes_to_standard_error_a_line_a_step(dev: Dev) -> None:
    steps = [line.split("(")[0].split(maxsplit=1) for line in dev.err.splitlines() if line.startswith("  ")]
    assert [words[0] for words in steps] == ["ok"] * len(steps)
    assert [words[1].strip() for words in steps] == [
        "Postgres and Redis",
        "Database schema",
        "Tenant demo",
        "API and workers",
    ]


def test_dev_json_tells_programs_the_same_and_is_private(dev: Dev) -> None:
    known = dev.json
    assert list(known) == ["url", "tenant", "api_key", "sse_url", "mcp_url", "env"]
    assert known["tenant"] == "demo"
    assert known["api_key"].startswith("tlk_")
    assert known["sse_url"] == f"{known['url']}/t/demo/sse"
    assert known["mcp_url"] == f"{known['url']}/t/demo/mcp"
    assert stat.S_IMODE((dev.directory / "data" / "dev.json").stat().st_mode) == 0o600


def test_its_env_is_all_that_a_further_process_needs(dev: Dev) -> None:
    env = dev.json["env"]
    assert all(name.startswith("TRUNKLINE_") for name in env)
    settings = Settings(**{name.removeprefix("TRUNKLINE_").lower(): value for name, value in env.items()})
    assert settings.environment == "dev"
    assert settings.public_url == dev.json["url"]
    assert len(settings.secret_key.get_secret_value()) >= 32


def test_a_tool_called_with_the_printed_url_and_key_answers(dev: Dev) -> None:
    assert dev.call("add", a=3, b=5) == "8"


def test_api_and_worker_are_processes_of_their_own(dev: Dev) -> None:
    assert dev.child("api").pid != dev.child("worker").pid


def test_a_further_worker_joins_with_the_env_of_dev_json(dev: Dev) -> None:
    before = dev.workers()
    command = [sys.executable, "-m", "trunkline", "worker"]
    env = os.environ | dev.json["env"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            assert eventually(lambda: dev.workers() == before + 1, 30)
        finally:
            worker.terminate()
            worker.wait(30)


def test_a_worker_that_dies_is_told_and_replaced(dev: Dev) -> None:
    killed = dev.child("worker")
    killed.kill()
    assert eventually(lambda: "The worker ended by itself (exit code -9" in dev.err, 10)
    assert eventually(lambda: any("worker" in child.cmdline() for child in dev.children()), 10)
    assert dev.child("worker").pid != killed.pid
    assert dev.call("add", a=1, b=1) == "2"


def test_a_busy_port_is_told_before_anything_is_started(dev: Dev) -> None:
    port = urlsplit(dev.json["url"]).port
    with open_directory() as directory, start(directory, port=port) as second:
        assert second.process.wait(30) == 1
        assert second.err == f"Port {port} is in use; stop what listens there, or choose another with --port.\n"
        assert not (directory / "data").exists()


def test_a_data_directory_in_use_is_told_in_one_sentence(dev: Dev) -> None:
    command = [sys.executable, "-m", "trunkline", "dev", "--data", dev.directory / "data", "--port", str(free_port())]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert second.stderr.startswith(
        f"The data directory {dev.directory}/data is in use by process {dev.process.pid};"
    )
    assert len(second.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nothing_like_it:server", "There is no module 'nothing_like_it' here"),
        ("json:loads", "json:loads"),
        ("calculator", "write it as module:object"),
    ],
)
def test_a_server_that_cannot_be_hosted_is_told_in_one_sentence(spec: str, sentence: str) -> None:
    with open_directory() as directory, start(directory, "--server", spec) as dev:
        assert dev.process.wait(60) == 1
        assert sentence in dev.err.splitlines()[-1]
        assert "Traceback" not in dev.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_starting_is_an_orderly_end_too(number: signal.Signals) -> None:
    with open_directory() as directory, start(directory) as dev:
        assert eventually(lambda: "Postgres and Redis" in dev.err, 30)
        children = dev.children()
        assert dev.end(number) == 0
        assert "Traceback" not in dev.err
        assert gone(children)


def test_it_ends_in_order_and_a_second_start_finds_everything_as_it_was() -> None:
    port = free_port()
    with open_directory() as directory:
        (directory / "calculator.py").write_text(SERVER)
        with ready(directory, "--server", "calculator:server", port=port) as first:
            children, known = first.children(), first.json
            assert first.call("add", a=3, b=5) == "305", "the toolset that came first keeps its names"
            assert first.call("demo_add", a=3, b=5) == "8"
            assert first.end(signal.SIGINT) == 0
            assert "Traceback" not in first.err
            assert gone(children, 1)
        with ready(directory, "--server", "calculator:server", port=port) as second:
            assert second.json == known
            assert second.call("demo_add", a=1, b=2) == "3"
            assert second.end(signal.SIGTERM) == 0


def test_at_another_port_it_issues_another_key() -> None:
    with open_directory() as directory:
        with ready(directory, "--workers", "0") as first:
            known = first.json
            assert first.workers() == 0
        with ready(directory) as second:
            assert second.json["api_key"] != known["api_key"]
            assert second.json["env"]["TRUNKLINE_DATABASE_URL"] == known["env"]["TRUNKLINE_DATABASE_URL"]
            assert second.call("add", a=3, b=5) == "8"


def test_the_end_of_the_api_ends_everything_with_one_sentence() -> None:
    with open_directory() as directory, ready(directory, "--workers", "0") as dev:
        children = dev.children()
        dev.child("api").kill()
        assert dev.process.wait(30) == 1
        assert dev.err.splitlines()[-1].startswith("The API ended by itself (exit code -9")
        assert gone(children)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent death signal is Linux's")
def test_killed_outright_it_leaves_no_process_behind() -> None:
    with open_directory() as directory, ready(directory) as dev:
        children = dev.children()
        assert len(children) > 4
        dev.process.kill()
        assert gone(children)
