"""Dockerfile, compose file, k8s/, nginx/ and platforms agree with each other and with the settings of the program."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.deploy.dockerfile import stages
from tests.deploy.first_start import FIRST_START
from tests.deploy.manifests import RENDERED, container, of_kind, pod
from tests.deploy.tools import ROOT

from trunkline.settings import Settings

LAST = stages(ROOT / "Dockerfile")[-1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
FLY = tomllib.loads((ROOT / "fly.toml").read_text())
RAILWAY = [tomllib.loads((ROOT / name).read_text()) for name in ("railway.toml", "railway.worker.toml")]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FILES = sorted(
    path
    for pattern in ("Dockerfile", "docker-compose*.yml", "*.toml", "deploy/**/*", "k8s/**/*", "nginx/**/*")
    for path in ROOT.glob(pattern)
    if path.is_file() and "__pycache__" not in path.parts
)
VARIABLES = {f"TRUNKLINE_{field}".upper() for field in Settings.model_fields}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_variable_that_a_file_names_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"TRUNKLINE_[A-Z_]+[A-Z]", path.read_text(errors="ignore")))
    assert named - {"TRUNKLINE_API"} <= VARIABLES  # `TRUNKLINE_API_...` is what Kubernetes would set by itself


def test_the_version_is_that_of_the_package() -> None:
    assert LAST.arguments["VERSION"] == VERSION
    assert {service["image"] for service in COMPOSE.values() if "build" in service} == {f"trunkline:{VERSION}"}
    for folder in RENDERED:
        tags = {container(folder, role)["image"].rpartition(":")[2] for role in ("api", "worker", "migrate")}
        assert tags == {VERSION}


def test_the_user_is_that_of_the_image() -> None:
    uid, gid = map(int, LAST.one("USER").text.split(":"))
    assert FIRST_START["USERS"]["trunkline"] == FIRST_START["USERS"]["migrate"] == uid
    for folder in RENDERED:
        for role in ("api", "worker", "migrate"):
            context = pod(folder, role)["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"]) == (uid, gid)


def test_commands_and_ports_are_the_same_everywhere() -> None:
    for role in ("api", "worker"):
        command = container("base", role)["command"]
        assert COMPOSE[f"{role}-1"]["command"] == COMPOSE[f"{role}-2"]["command"] == command
        assert FLY["processes"][role].split() == command
        assert (
            next(each for each in RAILWAY if role in each["deploy"]["startCommand"])["deploy"]["startCommand"].split()
            == command
        )
    served, metrics = LAST.one("EXPOSE").text.split()
    assert container("base", "api")["command"][-1] == served
    (config,) = (each["data"] for each in of_kind("base", "ConfigMap"))
    assert config["TRUNKLINE_METRICS_PORT"] == metrics
    assert COMPOSE["api-1"]["environment"]["TRUNKLINE_METRICS_PORT"] == metrics
    assert COMPOSE["worker-1"]["environment"]["TRUNKLINE_METRICS_PORT"] == metrics
    assert FLY["env"]["TRUNKLINE_METRICS_PORT"] == metrics


def test_every_process_is_given_the_same_time_to_end_and_more_than_it_takes() -> None:
    settings = Settings(environment="dev")
    given = {
        pod("base", "api")["terminationGracePeriodSeconds"],
        pod("base", "worker")["terminationGracePeriodSeconds"],
        *(int(COMPOSE[name]["stop_grace_period"].removesuffix("s")) for name in ("api-1", "worker-1")),
        FLY["kill_timeout"],
        *(each["deploy"]["drainingSeconds"] for each in RAILWAY),
    }
    (seconds,) = given
    assert f"docker stop --time {seconds}" in (ROOT / "Dockerfile").read_text()
    assert seconds > settings.drain_timeout + settings.drain_delay + 15


def test_no_proxy_gives_up_on_a_stream_between_two_signs_of_life() -> None:
    interval = Settings(environment="dev").keepalive_interval
    nginx = re.findall(r"proxy_read_timeout (\d+)s;", (ROOT / "nginx" / "trunkline" / "http.conf").read_text())
    annotations = next(iter(of_kind("overlays/production", "Ingress")))["metadata"]["annotations"]
    limits = [*map(int, nginx), int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"])]
    assert len(limits) >= 2
    assert min(limits) >= 2 * interval
