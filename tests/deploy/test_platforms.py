"""fly.toml and railway.toml say of the program what the program does."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from tests.deploy.dockerfile import stages
from tests.deploy.tools import ROOT

from trunkline.metrics import Metrics
from trunkline.settings import Settings, load_settings

FLY: dict[str, Any] = tomllib.loads((ROOT / "fly.toml").read_text())
RAILWAY: dict[str, dict[str, Any]] = {
    role: tomllib.loads((ROOT / name).read_text())
    for role, name in (("api", "railway.toml"), ("worker", "railway.worker.toml"))
}
PAGES = {name: (ROOT / "docs" / "platforms" / f"{name}.md").read_text() for name in ("fly", "railway")}
LONGEST_END = Settings(environment="dev").drain_timeout + 15
"""Of a worker: 5 s each for answering what is left, audit events and the sign of life; of an API pod it is less."""
PATHS = {"/readyz", "/livez", "/metrics"}


def test_both_run_the_one_image() -> None:
    assert FLY["build"] == {"dockerfile": "Dockerfile"}
    for service in RAILWAY.values():
        assert service["build"] == {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"}
    last = stages(ROOT / "Dockerfile")[-1]
    # Neither has to know whether an ENTRYPOINT stays in front of its command.
    assert "ENTRYPOINT" not in {each.name for each in last.instructions}


@pytest.mark.parametrize("role", ["api", "worker"])
def test_both_run_the_same_processes_and_migrate_before(role: str) -> None:
    command = FLY["processes"][role]
    assert RAILWAY[role]["deploy"]["startCommand"] == command
    assert command.split()[:2] == ["trunkline", role]
    assert FLY["deploy"]["release_command"] == "trunkline migrate"
    assert RAILWAY["api"]["deploy"]["preDeployCommand"] == ["trunkline migrate"]
    assert "preDeployCommand" not in RAILWAY["worker"]["deploy"]


def test_ports_are_those_that_the_processes_listen_on() -> None:
    words = FLY["processes"]["api"].split()
    port = words[words.index("--port") + 1]
    assert words[words.index("--host") + 1] == "0.0.0.0"
    assert str(FLY["http_service"]["internal_port"]) == port
    assert f"| `PORT` | `{port}`" in PAGES["railway"]
    metrics = int(FLY["env"]["TRUNKLINE_METRICS_PORT"])
    assert [each["port"] for each in FLY["metrics"]] == [metrics]
    assert FLY["checks"]["worker"]["port"] == metrics
    assert FLY["http_service"]["processes"] == ["api"]


def test_health_is_asked_where_it_is_answered_with_a_host_that_is_answered() -> None:
    (check,) = FLY["http_service"]["checks"]
    assert check["path"] == RAILWAY["api"]["deploy"]["healthcheckPath"] == "/readyz"
    assert check["headers"] == {"Host": "localhost"}
    assert {check["path"], FLY["checks"]["worker"]["path"], FLY["metrics"][0]["path"]} <= PATHS
    assert "| `TRUNKLINE_ALLOWED_HOSTS` | `healthcheck.railway.app`" in PAGES["railway"]


def test_a_process_has_time_to_drain() -> None:
    assert FLY["kill_signal"] == "SIGTERM"
    assert 300 >= FLY["kill_timeout"] > LONGEST_END
    for service in RAILWAY.values():
        assert service["deploy"]["drainingSeconds"] > LONGEST_END


def test_no_machine_is_stopped_for_want_of_traffic() -> None:
    assert FLY["http_service"]["auto_stop_machines"] == "off"
    assert FLY["http_service"]["min_machines_running"] >= 2


def test_variables_that_are_set_or_named_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"TRUNKLINE_{field}".upper() for field in Settings.model_fields}
    texts = [
        *PAGES.values(),
        *((ROOT / name).read_text() for name in ("fly.toml", "railway.toml", "railway.worker.toml")),
    ]
    for text in texts:
        assert set(re.findall(r"TRUNKLINE_[A-Z_]+[A-Z]", text)) <= known
    for name, value in FLY["env"].items():
        monkeypatch.setenv(name, value)
    assert load_settings(secret_key="0123456789abcdef" * 4).public_url.startswith("https://")
    assert not {"TRUNKLINE_DATABASE_URL", "TRUNKLINE_REDIS_URL", "TRUNKLINE_SECRET_KEY"} & set(FLY["env"])


def test_workers_have_metrics_to_be_asked_for() -> None:
    assert b"trunkline_slots_wanted" in Metrics("worker", "0").render()
