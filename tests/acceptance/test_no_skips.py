"""Continuous integration must not pass because tests were left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest

@pytest.fixture
def program():
    pytest.skip("it is not installed")

@pytest.mark.skip(reason="not here")
def test_marked(): ...

def test_by_fixture(program): ...

def test_within():
    pytest.skip("after all")

def test_run(): ...
"""


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", directory, directory]
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *plugins, *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_skipped_test_has_failed_where_nothing_may_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_none.py").write_text('import pytest\npytest.skip("all of it", allow_module_level=True)\n')
    lenient = run(tmp_path)
    # As scripts/test runs them, in processes of their own: what a test came to travels to the one that reports it.
    strict = run(tmp_path, "--numprocesses=1", "--no-skips", "--continue-on-collection-errors")
    assert (lenient.returncode, strict.returncode) == (0, 1)
    assert "1 passed, 4 skipped" in lenient.stdout
    assert "1 passed" in strict.stdout
    assert "skipped," not in strict.stdout.splitlines()[-1]
    for reason in ("it is not installed", "not here", "after all", "all of it"):
        assert f"{reason}; but with --no-skips" in strict.stdout
