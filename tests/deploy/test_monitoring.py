"""Rules, alerts and dashboards are made of metrics that there are, and each alert says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from tests.deploy.monitoring import (
    ALERTS,
    DASHBOARDS,
    MONITORING,
    ROOT,
    RULES,
    all_expressions,
    expressions,
    metrics_in,
)

from trunkline.api.control.usage import as_metrics
from trunkline.audit.usage import Used
from trunkline.metrics import Metrics

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool on the PATH; it comes with Prometheus (Debian: prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def there_are() -> set[str]:
    """The names of all samples of a process, and of what it tells of tenants."""
    used = {"acme": Used(calls=1, errors=1, compute_us=1, bytes_in=1, bytes_out=1)}
    page = Metrics("api", "0").render().decode() + as_metrics(used)
    return set(re.findall(r"^([a-z_]+)[ {]", page, re.MULTILINE)) | {"up"}


def test_prometheus_takes_the_rules_and_alerts() -> None:
    promtool("check", "rules", *(MONITORING / "prometheus" / name for name in ("rules.yml", "alerts.yml")))


def test_alerts_fire_when_they_should_and_not_before() -> None:
    promtool("test", "rules", MONITORING / "prometheus" / "tests.yml")


def test_prometheus_takes_what_the_dashboards_ask(tmp_path: Path) -> None:
    asked = [re.sub(r"\$tenant", "acme", expression) for path in DASHBOARDS for expression in expressions(path)]
    rules = [{"record": f"asked:{number}", "expr": each} for number, each in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", tmp_path / "asked.yml")


def test_what_rules_alerts_and_dashboards_name_is_there() -> None:
    named = {name: "rule" for rule in [*RULES, *ALERTS] for name in metrics_in(rule["expr"])}
    named |= {name: path.name for path in DASHBOARDS for each in expressions(path) for name in metrics_in(each)}
    recorded = {rule["record"] for rule in RULES}
    assert len(named) > 40
    assert {name: place for name, place in named.items() if name not in there_are() | recorded} == {}


def test_every_rule_is_of_use_to_a_dashboard_an_alert_or_whoever_scales() -> None:
    used = {name for each in all_expressions() for name in metrics_in(each)}
    assert {rule["record"] for rule in RULES} <= used


@pytest.mark.parametrize("label", ["reason", "outcome", "fate", "result", "store"])
def test_values_of_labels_that_are_asked_for_exist(label: str) -> None:
    page = Metrics("api", "0").render().decode()
    known = set(re.findall(rf'{label}="(\w+)"', page))
    asked = [rule["expr"] for rule in [*RULES, *ALERTS]] + [each for path in DASHBOARDS for each in expressions(path)]
    values = {
        value for each in asked for found in re.findall(rf'{label}=~?"([^"]+)"', each) for value in found.split("|")
    }
    assert values, label
    assert values <= known


def test_each_alert_has_a_paragraph_that_says_what_it_means_and_what_to_do() -> None:
    sections = dict(re.findall(r"^## (\w+)\n\n(.+?)(?=\n## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert list(sections) == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert sections[rule["alert"]].startswith(f"*{rule['labels']['severity']}.*"), rule["alert"]
        assert len(sections[rule["alert"]]) > 150
        assert rule["annotations"]["summary"].endswith(".")


def test_the_rules_for_kubernetes_are_the_same() -> None:
    resource = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "rules.yaml").read_text())
    groups: list[Any] = []
    for name in ("rules.yml", "alerts.yml"):
        groups += yaml.safe_load((MONITORING / "prometheus" / name).read_text())["groups"]
    assert resource["spec"]["groups"] == groups


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_a_dashboard_have_their_own_place_and_ask_one_source(path: Path) -> None:
    board = orjson.loads(path.read_bytes())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({orjson.loads(each.read_bytes())["uid"] for each in DASHBOARDS}) == len(DASHBOARDS)


def test_tenants_are_named_by_what_asks_for_a_key_alone() -> None:
    assert "tenant=" not in Metrics("api", "0").render().decode()
    configuration = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text())
    jobs = {each["job_name"]: each for each in configuration["scrape_configs"]}
    assert jobs["trunkline-tenants"]["metrics_path"] == "/v1/operator/metrics"
    assert "authorization" in jobs["trunkline-tenants"]
