"""The programs that `scripts/_tools` installs; a test that needs one and lacks it is skipped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv" / "tools" / "bin"


def tool(name: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the programs."""
    if not (TOOLS / name).exists():
        pytest.skip(f"{name} is not installed; scripts/test installs it, where the package index has it")
    done = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
