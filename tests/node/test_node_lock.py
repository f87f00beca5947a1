"""What is installed for Node is fixed to the byte, and no file says from where."""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
WANTED = json.loads((HERE / "package.json").read_text())
LOCK = json.loads((HERE / "package-lock.json").read_text())
PACKAGES = {name: package for name, package in LOCK["packages"].items() if name}


def test_every_package_of_the_lock_is_a_version_with_a_hash() -> None:
    assert LOCK["lockfileVersion"] == 3
    assert [
        name for name, package in PACKAGES.items() if not package.get("integrity", "").startswith("sha512-")
    ] == []
    assert [name for name, package in PACKAGES.items() if not re.fullmatch(r"[\w.+-]+", package["version"])] == []


def test_neither_file_names_a_host_or_a_path() -> None:
    for name in ("package.json", "package-lock.json"):
        assert not re.search(r"://|resolved|file:|git\+|registry", (HERE / name).read_text()), name


def test_what_is_wanted_is_wanted_exactly_and_locked_at_that() -> None:
    for kind in ("dependencies", "optionalDependencies"):
        for name, version in WANTED[kind].items():
            assert re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", version), name
            assert PACKAGES[f"node_modules/{name}"]["version"] == version
    assert LOCK["packages"][""]["dependencies"] == WANTED["dependencies"]
