"""What `kubectl kustomize` makes of k8s/, rendered once for each run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml
from tests.deploy.tools import ROOT, tool

Resource = dict[str, Any]

K8S = ROOT / "k8s"
RENDERED = ("base", "overlays/dev", "overlays/production", "overlays/production-hpa", "overlays/production-nginx")
CUSTOM = frozenset({"ScaledObject", "ServiceMonitor", "PodMonitor", "PrometheusRule", "ScrapeConfig"})
"""Kinds that Kubernetes itself does not bring."""


@lru_cache
def render(folder: str) -> tuple[Resource, ...]:
    return tuple(yaml.safe_load_all(tool("kubectl", "kustomize", K8S / folder).stdout))


def of_kind(folder: str, *kinds: str) -> list[Resource]:
    return [each for each in render(folder) if each["kind"] in kinds]


def named(folder: str, kind: str, name: str) -> Resource:
    (found,) = (each for each in of_kind(folder, kind) if each["metadata"]["name"] == name)
    return found


def templates(folder: str) -> list[Resource]:
    """The pod templates of everything that makes pods."""
    makers = of_kind(folder, "Deployment", "StatefulSet", "DaemonSet", "Job")
    crons = [each["spec"]["jobTemplate"] for each in of_kind(folder, "CronJob")]
    return [each["spec"]["template"] for each in (*makers, *crons)]


def container(folder: str, name: str) -> Resource:
    (found,) = (each for pod in templates(folder) for each in pod["spec"]["containers"] if each["name"] == name)
    return found


def pod(folder: str, name: str) -> Resource:
    """The specification of the pods in which a container of that name is."""
    found = (each["spec"] for each in templates(folder) if each["spec"]["containers"][0]["name"] == name)
    return next(iter(found))
