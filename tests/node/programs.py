"""Programs for Node that a test runs: what `scripts/_node` installed, and a Node that is new enough for it."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
OLDEST = (22, 19)


@cache
def node() -> str:
    """The path of Node: the one that was installed, else the machine's own if it is new enough; else empty."""
    packaged = sorted(MODULES.glob("node-*/bin/node"))
    candidates = [str(path) for path in packaged] + [found for found in [shutil.which("node")] if found]
    return next((path for path in candidates if _version(path) >= OLDEST), "")


def _version(path: str) -> tuple[int, ...]:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(int(part) for part in said.strip().removeprefix("v").split(".") if part.isdigit())


def missing() -> str:
    """Why nothing of this can run here; empty where it can."""
    if not (MODULES / ".synced").exists():
        return "the programs of tests/node are not installed; scripts/test does that where there is npm"
    if not node():
        return f"Node {'.'.join(map(str, OLDEST))} or newer is needed, and there is none"
    return ""


needs_node = pytest.mark.skipif(bool(missing()), reason=missing())


def program(package: str, path: str) -> list[str]:
    """The command that runs a file of an installed package."""
    return [node(), str(MODULES / package / path)]
