"""Versions below these have holes that matter to us: what is installed counts, not what is asked for."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version


@pytest.mark.parametrize(("package", "floor"), [("mcp", "2.2"), ("starlette", "1.3"), ("pyjwt", "2.15")])
def test_an_installed_library_is_at_or_above_its_floor(package: str, floor: str) -> None:
    assert Version(version(package)) >= Version(floor)


def test_the_sdk_is_of_the_major_version_that_the_executor_is_written_for() -> None:
    assert Version(version("mcp")).major == 2
