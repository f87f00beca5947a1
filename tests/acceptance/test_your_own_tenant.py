"""The page docs/your-own-tenant.md as a stranger follows it: every block, in order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.test_dev import Dev, ready
from tests.stores import open_directory

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-tenant.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FIRST_CALLS = 3
"""Blocks from signing up to calls by curl and by the SDK."""


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with open_directory() as directory, ready(directory) as running:
        yield running


def script(url: str) -> str:
    """The blocks as one script, with the address and the programs of this test; each block says when it begins."""
    binaries = Path(sys.executable).parent
    blocks = "\n".join(f'echo; echo "=== $(date +%s)"\n{block}' for block in SHELL)
    text = f'set -eu\n{blocks}\necho; echo "=== $(date +%s)"'
    text = text.replace("http://127.0.0.1:8000", url)
    text = text.replace(".venv/bin/trunkline", f"{sys.executable} -m trunkline")
    return text.replace(" .venv/bin/", f" {binaries}/").replace("\n.venv/bin/", f"\n{binaries}/")


def test_every_block_does_what_the_page_says_and_the_first_call_comes_within_a_minute(dev: Dev) -> None:
    directory = dev.directory / "stranger"
    directory.mkdir()
    (directory / "first_call.py").write_text(PYTHON)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    run = subprocess.run(
        ["sh", "-c", script(dev.json["url"])], cwd=directory, env=environment, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    _, *told = re.split(r"\n=== ", f"{run.stdout}")
    at = [int(each.partition("\n")[0]) for each in told]
    told = [part.partition("\n")[2] for part in told]
    signed_up, curl, sdk, invited, members, narrow, did, toolsets, revoked, _ = told
    assert at[FIRST_CALLS] - at[0] < 60
    assert signed_up.strip() == f"{dev.json['url']}/t/acme/mcp"
    assert '"structuredContent":{"result":8}' in curl
    assert sdk.strip() == "8"
    assert "/invite#tli_" in invited
    assert '"email":"bob@acme.example"' in members
    assert narrow.split("\n")[:2] == ["hello", "whoami does not exist for this key"]
    assert '"tool":"echo","calls":1' in did
    assert '"action":"tools/call","target":"echo"' in did
    assert '"name":"demo","enabled":true' in toolsets
    assert revoked.split() == ["revoked", "refused"]
    copy = (directory / "audit.jsonl").read_text()
    assert "tenant.create" in copy
    assert "checkpoint" in copy.splitlines()[-1]
    key = re.search(r'"secret":\s*"(tlk_[^"]+)"', (directory / "key.json").read_text())
    assert key is not None
    assert key[1] not in copy + run.stdout
