"""What `monitoring/` has: rules, alerts, dashboards, and the names of metrics in an expression."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))


def _rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "prometheus" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RULES = _rules("rules.yml")
ALERTS = _rules("alerts.yml")


def expressions(dashboard: Path) -> Iterator[str]:
    """All that a dashboard asks, its variables included."""
    board = orjson.loads(dashboard.read_bytes())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"label_values\((\w+), \w+\)", r"\1", variable["query"]["query"])


def metrics_in(expression: str) -> set[str]:
    """The metrics and recorded series that an expression names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}', "", expression)
    return set(re.findall(r"\b(?:trunkline(?::\w+)+|trunkline_\w+|process_\w+|up)\b", bare))


def all_expressions() -> list[str]:
    """All that rules, alerts and dashboards ask."""
    return [rule["expr"] for rule in [*RULES, *ALERTS]] + [each for path in DASHBOARDS for each in expressions(path)]


def metrics_of_everything() -> set[str]:
    """All metrics that these name and Prometheus does not make itself."""
    return {name for each in all_expressions() for name in metrics_in(each) if ":" not in name} - {"up"}
