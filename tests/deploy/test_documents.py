"""What the documents list is what there is."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from trunkline.cli.processes import setting_rows
from trunkline.metrics import Metrics
from trunkline.tenants.roles import PERMISSIONS, ROLES, SCOPE_PERMISSIONS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "k8s").glob("*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
SCRIPTS = ROOT / "src" / "trunkline" / "streams" / "scripts"


def section(title: str) -> str:
    return ARCHITECTURE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_table_of_settings_is_what_the_program_reads() -> None:
    wanted = [
        f"| `{row['name']}` | {'`' + row['default'] + '`' if row['default'] else ''} | {row['description']} |"
        for row in setting_rows({})
    ]
    table = [line for line in section("Settings").splitlines() if line.startswith("| `TRUNKLINE_")]
    assert table == wanted, "replace the table by:\n" + "\n".join(wanted)


def test_the_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each for each in contracts if each["type"] == "layers")["layers"]
    assert "\n".join(("```", *layers, "```")) in section("The code")


def test_the_scripts_of_redis_are_those_that_run_on_their_own() -> None:
    texts = {path.stem: path.read_text() for path in SCRIPTS.glob("*.lua")}
    included = {name for text in texts.values() for name in re.findall(r"^--@include (\w+)$", text, re.MULTILINE)}
    listed = re.findall(r"^\| `(\w+)` \|", section("Redis"), re.MULTILINE)
    assert sorted(listed) == sorted(set(texts) - included)


def test_the_metrics_are_those_that_there_are() -> None:
    page = Metrics("api", "0").render().decode()
    there = set(re.findall(r"^# TYPE trunkline_(\w+) ", page, re.MULTILINE))
    text = section("Following one call").split("In the metrics")[1].split("No label")[0]
    named = {name.removesuffix("_total") for name in re.findall(r"`([a-z]\w+)(?:\{\w+\})?`", text)}
    there = {name.removesuffix("_total") for name in there}
    assert there - named == set()
    assert {name for name in named if "_" in name} - {"trunkline_"} <= there


def test_the_log_of_a_call_has_all_seven_stations() -> None:
    stations = ("accept", "enqueue", "claim", "execute", "publish", "forward", "deliver")
    assert sorted(re.findall(r'"event":"(\w+)"', section("Following one call"))) == sorted(stations)
    table = [line for line in section("The path of a message").splitlines() if re.match(r"\| \d \|", line)]
    assert [line.split("|")[2].strip() for line in table] == list(stations)


def test_files_that_the_path_of_a_message_names_are_there() -> None:
    package = ROOT / "src" / "trunkline"
    names = set(re.findall(r"`([\w/]+\.(?:py|lua))`", section("The path of a message")))
    everything = {path.relative_to(package).as_posix() for path in package.rglob("*")}
    assert [name for name in names if not any(f"/{path}".endswith(f"/{name}") for path in everything)] == []


def test_the_index_of_decisions_is_complete() -> None:
    folder = ROOT / "docs" / "decisions"
    written = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())[: len(written)] == written
    for number, name in enumerate(written, start=1):
        title = (folder / name).read_text().splitlines()[0]
        assert name.startswith(f"{number:04}-")
        assert title.startswith(f"# {number:04} ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"docs/decisions/[\w-]+\.md", "\n".join(
    file.read_text() for file in (ROOT / "src").rglob("*.py")
)))))  # fmt: skip
def test_decisions_that_the_code_names_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_first_screen_of_the_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    first = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)[0]
    assert [line.split()[0] for line in first.splitlines()] == ["scripts/dev", "scripts/test"]


def test_python_in_the_readme_is_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        ast.parse(block)


def test_the_table_of_roles_is_what_the_control_plane_goes_by() -> None:
    wanted = [f"| permission | {' | '.join(ROLES)} | scopes of keys |", "|" + "---|" * (len(ROLES) + 2)]
    for permission in PERMISSIONS:
        scopes = [f"`{scope}`" for scope, allows in SCOPE_PERMISSIONS.items() if permission in allows]
        marks = ["x" if permission in allowed else "" for allowed in ROLES.values()]
        wanted.append(f"| `{permission}` | {' | '.join(marks)} | {', '.join(scopes) or 'none'} |")
    page = (ROOT / "docs" / "control-plane.md").read_text()
    table = page.split("<!-- roles -->\n")[1].split("\n<!-- /roles -->")[0]
    assert table.splitlines() == wanted, "replace the table by:\n" + "\n".join(wanted)


@pytest.mark.parametrize("page", ["your-own-tenant.md", "control-plane.md"])
def test_python_in_the_pages_of_the_control_plane_is_python(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)
