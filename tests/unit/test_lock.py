"""What a clone installs is fixed to the byte, and no file of the repository says from where."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [ROOT / "requirements.lock", *sorted((ROOT / "locks").iterdir())]
TOGETHER = "\n".join(lock.read_text() for lock in (ROOT / "requirements.lock", ROOT / "locks" / "tools.lock"))
ENTRY = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)"
)


def locked(text: str = TOGETHER) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for entry in ENTRY.finditer(text):
        found.setdefault(canonicalize_name(entry["name"]), []).append(Version(entry["version"]))
    return found


def direct_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
        *(line for group in project["dependency-groups"].values() for line in group),
    ]
    return [Requirement(line) for line in lines]


@pytest.fixture(params=LOCKS, ids=lambda path: path.name)
def lock(request: pytest.FixtureRequest) -> str:
    return Path(request.param).read_text()


def test_every_line_of_a_lock_is_a_version_with_hashes_and_nothing_else(lock: str) -> None:
    assert ENTRY.sub("", lock).strip() == ""


def test_a_lock_names_no_host_and_no_path(lock: str) -> None:
    assert not re.search(r"://|file:|@|--(?:extra-)?index|--find-links|(?:^|\s)[./~]", lock)


def test_every_requirement_is_locked_once_for_all_platforms(lock: str) -> None:
    assert {name for name, versions in locked(lock).items() if len(versions) > 1} == set()
    for entry in ENTRY.finditer(lock):
        if entry["marker"]:
            Marker(entry["marker"])


@pytest.mark.parametrize("requirement", direct_requirements(), ids=str)
def test_a_direct_requirement_is_locked_at_a_version_that_it_allows(requirement: Requirement) -> None:
    versions = locked().get(canonicalize_name(requirement.name), [])
    assert versions
    assert all(version in requirement.specifier for version in versions)


@pytest.mark.parametrize(
    "name", ["Dockerfile", "pyproject.toml", *sorted(f"scripts/{file.name}" for file in (ROOT / "scripts").iterdir())]
)
def test_what_installs_names_no_package_index(name: str) -> None:
    text = (ROOT / name).read_text().replace("--no-emit-index-url", "")
    assert not re.search(r"index-url|find-links|pypi\.|https?://", text)


def test_continuous_integration_runs_what_people_run_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd ", "export "))]
    assert commands == ["scripts/lint", "scripts/test"]
