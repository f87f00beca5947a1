"""The Dockerfile: what it installs, who it runs as, what it says of itself."""

from __future__ import annotations

import importlib.metadata
import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.deploy.dockerfile import instructions, stages
from tests.deploy.tools import ROOT, TOOLS, tool

from trunkline.cli.processes import api

STAGES = stages(ROOT / "Dockerfile")
LAST = STAGES[-1]
LOCKS = ROOT / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ALIVE = runpy.run_path(str(ROOT / "deploy" / "alive.py"))
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_version": "3.13",
    "python_full_version": "3.13.0",
}


def locked(text: str) -> dict[str, str]:
    """Each package of a lock with everything that its entry says."""
    entries = re.findall(r"^[a-z0-9][^\n]*(?:\\\n    --hash=sha256:[0-9a-f]{64}[^\n]*)*", text, re.MULTILINE)
    return {canonicalize_name(re.split(r"==", entry)[0]): re.sub(r" ; [^\\]+", " ", entry) for entry in entries}


def needed() -> set[str]:
    """What the package needs on Linux, and what that needs, by what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        if requirement.marker and not any(requirement.marker.evaluate(LINUX | {"extra": each}) for each in extras):
            continue
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate(LINUX | {"extra": each}) for each in extras):
                inner.marker = None
                waiting.append(inner)
    return found


def test_hadolint_has_nothing_to_say() -> None:
    assert tool("hadolint", "Dockerfile").stdout == ""


def test_both_stages_are_of_the_base_that_a_build_argument_names() -> None:
    assert [stage.name for stage in STAGES] == ["build", ""]
    assert {stage.base for stage in STAGES} == {STAGES[0].arguments["BASE"]}
    assert re.search(r"^FROM \$\{BASE\}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_every_installation_checks_hashes_or_asks_no_index() -> None:
    installs = [
        part for stage in STAGES for run in stage.all("RUN") for part in run.text.split("&&") if "pip" in part
    ]
    installs = [part for part in installs if " install " in part]
    assert len(installs) == 3
    for part in installs:
        assert "--no-deps" in part
        assert "--require-hashes" in part or "--no-index" in part


def test_the_image_has_what_the_program_needs_and_nothing_else() -> None:
    lines = re.findall(r"^([a-z0-9].+?) \\\\?$", (LOCKS / "image.lock").read_text(), re.MULTILINE)
    theirs = [Requirement(line) for line in lines]
    installed = {canonicalize_name(each.name) for each in theirs if not each.marker or each.marker.evaluate(LINUX)}
    assert installed == needed()


@pytest.mark.parametrize("name", ["image.lock", "build.lock"])
def test_what_the_image_is_made_of_is_what_the_tests_ran_on(name: str) -> None:
    tested = locked((ROOT / "requirements.lock").read_text())
    used = locked((LOCKS / name).read_text())
    assert used
    assert [package for package, entry in used.items() if tested.get(package) != entry] == []


def test_the_builder_is_given_what_the_dockerfile_copies_and_nothing_else() -> None:
    copied = {
        source for stage in STAGES for each in stage.all("COPY") if not each.options for source in each.words[:-1]
    }
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / each).exists() for each in copied)


def test_the_last_stage_installs_nothing_and_runs_as_nobody() -> None:
    assert not re.search(r"apt|pip|curl|wget|gcc", " ".join(run.text for run in LAST.all("RUN")))
    uid, gid = LAST.one("USER").text.split(":")
    assert uid == gid
    assert int(uid) >= 10_000
    assert f"--uid {uid}" in LAST.one("RUN").text
    names = [each.name for each in LAST.instructions]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in {"RUN", "COPY"})


def test_the_labels_are_those_of_the_open_container_initiative() -> None:
    labels = dict(word.split("=", 1) for word in LAST.one("LABEL").words)
    assert all(name.startswith("org.opencontainers.image.") for name in labels)
    short = {name.rpartition("image.")[2]: value for name, value in labels.items()}
    assert short["licenses"] == PROJECT["project"]["license"]
    assert LAST.arguments["VERSION"] == PROJECT["project"]["version"]
    assert short["version"] == "${VERSION}"
    assert short["base.name"] == "${BASE}"


def test_the_ports_are_those_of_the_program() -> None:
    assert LAST.one("EXPOSE").text.split() == [str(api.__defaults__[1]), "9090"]
    assert ALIVE["PORT"] == api.__defaults__[1]


def test_the_healthcheck_gives_up_after_its_own_patience() -> None:
    check = LAST.one("HEALTHCHECK")
    assert ALIVE["PATIENCE"] < int(check.options["timeout"].removesuffix("s"))
    copied = STAGES[0].all("COPY")[-1].words
    assert check.command[-1] == copied[-1]
    assert copied[0] == "deploy/alive.py"


@pytest.mark.parametrize(
    ("arguments", "variables", "asked"),
    [
        ("python /opt/trunkline/bin/trunkline api", {}, (8000, "/livez")),
        ("/bin/trunkline api --host 0.0.0.0 --port 8001", {}, (8001, "/livez")),
        ("/bin/trunkline api --port=8001", {"TRUNKLINE_METRICS_PORT": "9090"}, (8001, "/livez")),
        ("docker-init -- trunkline api --port 8002", {}, (8002, "/livez")),
        ("python -m trunkline worker", {"TRUNKLINE_METRICS_PORT": "9090"}, (9090, "/metrics")),
        ("trunkline worker", {"TRUNKLINE_METRICS_PORT": "0"}, None),
        ("trunkline worker --concurrency 8", {}, None),
        ("trunkline migrate", {"TRUNKLINE_METRICS_PORT": "9090"}, None),
        ("trunkline", {}, None),
        ("sleep 100", {"TRUNKLINE_METRICS_PORT": "9090"}, None),
    ],
)
def test_the_healthcheck_knows_whom_to_ask(
    arguments: str, variables: dict[str, str], asked: tuple[int, str] | None
) -> None:
    assert ALIVE["what_to_ask"](arguments.split(), variables) == asked


def test_an_instruction_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="ONBUILD"):
        list(instructions("FROM scratch\nONBUILD RUN true\n"))


def test_what_writes_the_list_of_packages_names_them_with_their_versions(tmp_path: Path) -> None:
    """The command of `scripts/sbom` on the environment of the tools, a small one; `scripts/image` tries all of it."""
    script = (ROOT / "scripts" / "sbom").read_text().replace("\\\n", " ")
    command = re.search(r"cyclonedx-py (environment .+) --output-file", script)
    assert command
    listed = tmp_path / "sbom.json"
    tool("cyclonedx-py", *command[1].split(), "--no-validate", "--output-file", listed, TOOLS / "python")
    document = json.loads(listed.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    root = document["metadata"]["component"]
    assert (root["name"], root["version"]) == ("trunkline", PROJECT["project"]["version"])
    there = {canonicalize_name(each["name"]): f"=={each['version']} " for each in document["components"]}
    written = locked((LOCKS / "tools.lock").read_text())
    assert there
    assert [name for name, version in there.items() if version not in written[name]] == []
