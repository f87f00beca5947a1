"""What k8s/ and docker-compose.yml say of the program is what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from trunkline.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "k8s" / "base"
VARIABLES = {f"TRUNKLINE_{field}".upper() for field in Settings.model_fields}
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
END_OF_WORKER = 15
"""Seconds that a worker may take after DRAIN_TIMEOUT: answering what is left, audit events, sign of life; 5 each."""
PRE_STOP = 5


def resources() -> list[dict[str, Any]]:
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [each for file in files for each in yaml.safe_load_all((BASE / file).read_text())]


def pods() -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in resources() if each["kind"] in {"Deployment", "Job"}]


def containers() -> list[dict[str, Any]]:
    return [container for pod in pods() for container in pod["containers"]]


def api() -> dict[str, Any]:
    return next(each for each in containers() if each["name"] == "api")


def test_every_file_of_the_base_is_part_of_it() -> None:
    files = {file.name for file in BASE.iterdir()} - {"kustomization.yaml"}
    assert files == set(yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"])


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_a_container_runs_a_command_that_there_is_with_options_that_it_has(container: dict[str, Any]) -> None:
    program, command, *options = container["command"]
    assert program == "trunkline"
    shown = subprocess.run(
        [sys.executable, "-m", "trunkline", command, "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert all(option in shown for option in options if option.startswith("--"))


def test_variables_that_are_set_are_settings() -> None:
    literals = yaml.safe_load((BASE / "kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
    named = {each["name"] for container in containers() for each in container.get("env", ())}
    named |= {literal.partition("=")[0] for literal in literals}
    for document in (ROOT / "k8s" / "README.md", ROOT / "docker-compose.yml", ROOT / "nginx" / "nginx.conf"):
        named |= set(re.findall(r"TRUNKLINE_[A-Z_]+", document.read_text()))
    assert named - {"TRUNKLINE_API_"} <= VARIABLES


def test_no_secret_is_written_down_and_each_container_takes_them_by_reference() -> None:
    for container in containers():
        assert {"secretRef": {"name": "trunkline"}} in container["envFrom"]
        assert not {each["name"] for each in container.get("env", ())} & {
            f"TRUNKLINE_{name}" for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "METRICS_KEY")
        }


def test_the_service_reaches_the_port_that_the_api_listens_on() -> None:
    command = api()["command"]
    listens = int(command[command.index("--port") + 1])
    assert api()["ports"][0] == {"name": "http", "containerPort": listens}
    service = next(each for each in resources() if each["kind"] == "Service")
    deployment = next(each for each in resources() if each["metadata"]["name"] == "trunkline-api")
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert "sessionAffinity" not in service["spec"]


def test_probes_ask_addresses_that_answer_with_a_host_that_is_answered() -> None:
    paths = {name: api()[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in paths.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    for probe in paths.values():
        assert probe["port"] == "http"
        assert probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_pods_expose_the_metrics_port_that_they_are_given() -> None:
    for container in containers():
        if container["name"] != "migrate":
            port = next(each["containerPort"] for each in container["ports"] if each["name"] == "metrics")
            assert {"name": "TRUNKLINE_METRICS_PORT", "value": str(port)} in container["env"]


def test_the_grace_period_is_longer_than_what_a_process_may_take_to_end() -> None:
    periods = [pod["terminationGracePeriodSeconds"] for pod in pods() if "terminationGracePeriodSeconds" in pod]
    assert len(periods) == 2
    assert min(periods) > DEFAULTS["drain_timeout"] + max(END_OF_WORKER, PRE_STOP)
    assert api()["lifecycle"]["preStop"]["sleep"]["seconds"] == PRE_STOP


def test_containers_have_no_rights() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_urls_in_the_compose_file_are_those_of_its_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    assert {tuple(service["ports"]) for service in services.values()} == {
        ("127.0.0.1:5432:5432",),
        ("127.0.0.1:6379:6379",),
    }
    for name, value in re.findall(r"export (TRUNKLINE_\w+)=(\S+)", text):
        monkeypatch.setenv(name, value)
    settings = load_settings(environment="dev")
    login = services["postgres"]["environment"]
    user, password, database = (login[f"POSTGRES_{part}"] for part in ("USER", "PASSWORD", "DB"))
    assert settings.database_url == f"postgresql://{user}:{password}@127.0.0.1:5432/{database}"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


def test_redis_in_the_compose_file_keeps_calls_and_evicts_nothing() -> None:
    _, *flags = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["command"]
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert given == {"--appendonly": "yes", "--appendfsync": "everysec", "--maxmemory-policy": "noeviction"}
