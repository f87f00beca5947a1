"""docker-compose.yml is valid, opens nothing and knows no secret, and says of the program what the program does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.dockerfile import stages
from tests.deploy.first_start import FIRST_START
from tests.deploy.tools import ROOT, tool

from trunkline.settings import Settings, load_settings

Service = dict[str, Any]

WHOLE, STORES = ROOT / "docker-compose.yml", ROOT / "docker-compose.stores.yml"
SERVICES: dict[str, Service] = yaml.safe_load(WHOLE.read_text())["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("trunkline:")]
PODS = ["api-1", "api-2", "worker-1", "worker-2"]
END_OF_WORKER = 15
CHECK = """
import re, sys, yaml, compose_spec
text = re.sub(r"[$][{]\\w+:-([^}]*)[}]", r"\\1", open(sys.argv[1]).read())
compose_spec.PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(text))).validate()
"""
"""By the Compose Specification, anchors and variables resolved."""


@pytest.mark.parametrize("file", [WHOLE, STORES], ids=lambda file: file.name)
def test_the_file_follows_the_compose_specification(file: Path) -> None:
    tool("python", "-c", CHECK, file)


def test_a_word_that_the_specification_does_not_know_is_found(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text(STORES.read_text().replace("healthcheck:", "healthchek:"))
    told = tool("python", "-c", CHECK, tmp_path / "bad.yml", check=False)
    assert "healthchek" in told.stderr


def test_what_is_asked_for_is_there() -> None:
    assert set(SERVICES) == {
        *("nginx", *PODS, "migrate", "secrets"),
        *("postgres", "redis", "prometheus", "grafana"),
    }
    assert set(OURS) == {*PODS, "migrate", "secrets"}


def command(name: str) -> list[str]:
    words: list[str] = SERVICES[name]["command"]
    return words


@pytest.mark.parametrize("name", [*PODS, "migrate"])
def test_one_image_runs_every_process(name: str) -> None:
    assert command(name)[:2] == ["trunkline", name.partition("-")[0]]
    assert SERVICES[name]["image"] == f"trunkline:{stages(ROOT / 'Dockerfile')[-1].arguments['VERSION']}"


def test_one_service_builds_the_image_and_the_others_take_it_from_nowhere_else() -> None:
    assert SERVICES["secrets"]["image"] == SERVICES["migrate"]["image"]
    assert {name: service["build"] for name, service in SERVICES.items() if "build" in service} == {"secrets": "."}
    assert {SERVICES[name]["pull_policy"] for name in (*PODS, "migrate")} == {"never"}


def test_variables_that_are_set_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {f"TRUNKLINE_{field}".upper() for field in Settings.model_fields}
    assert set(re.findall(r"TRUNKLINE_[A-Z_]+[A-Z]", WHOLE.read_text())) <= known
    for name in (*PODS, "migrate"):
        environment = SERVICES[name]["environment"]
        assert environment["TRUNKLINE_SECRETS_DIR"] == "/run/trunkline"
        (mounted,) = [each for each in SERVICES[name]["volumes"] if ":/run/trunkline:" in each]
        assert mounted.endswith(":ro")
    for variable, value in SERVICES["api-1"]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    monkeypatch.setenv("TRUNKLINE_SECRETS_DIR", str(tmp_path))
    for variable, text in FIRST_START["files_of"](dict.fromkeys(FIRST_START["MADE"], "0123456789abcdef" * 4))[
        "trunkline"
    ].items():
        (tmp_path / variable).write_text(text)
    settings = load_settings()
    assert settings.environment == "production"
    assert settings.database_url.startswith("postgresql://trunkline_pods:")
    assert settings.metrics_key.get_secret_value()


def test_no_secret_is_in_the_file_or_in_a_variable() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|_URL$", variable):
                assert value.startswith(("/", "${PUBLIC_URL")), (name, variable)
    assert "://trunkline:" not in WHOLE.read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_right_and_writes_where_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    user = service.get("user", stages(ROOT / "Dockerfile")[-1].one("USER").text).split(":")[0]
    if name == "secrets":
        assert (user, service["cap_add"]) == ("0", ["CHOWN", "DAC_OVERRIDE", "FOWNER"])
        assert service["network_mode"] == "none"
    else:
        assert user != "0"
        assert "cap_add" not in service


def test_ports_are_opened_on_this_machine_alone_and_stores_not_at_all() -> None:
    opened = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(opened) == {"nginx", "prometheus", "grafana"}
    for (port,) in opened.values():
        assert re.fullmatch(r"\$\{\w+:-127\.0\.0\.1:\d+\}:\d+", port)
    document = yaml.safe_load(WHOLE.read_text())
    assert document["networks"]["stores"]["internal"] is True
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["stores"]
    for name in ("nginx", "prometheus", "grafana"):
        assert "stores" not in SERVICES[name]["networks"]


def test_each_service_sees_its_own_secrets_alone() -> None:
    readers: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("secrets") and name != "secrets":
                assert volume.endswith(":ro")
                readers.setdefault(source, set()).add(name)
    assert readers == {
        "secrets-trunkline": set(PODS),
        "secrets-migrate": {"migrate"},
        **{f"secrets-{name}": {name} for name in ("postgres", "redis", "prometheus", "grafana")},
    }
    written = {volume.partition(":")[0]: volume.split(":")[1] for volume in SERVICES["secrets"]["volumes"][1:]}
    assert {source: f"/secrets/{source.removeprefix('secrets-')}" for source in readers}.items() <= written.items()


def test_the_files_that_services_read_are_those_that_are_made_and_for_their_users() -> None:
    made = FIRST_START["files_of"](dict.fromkeys(FIRST_START["MADE"], "x"))
    places = {
        "postgres": "/docker-entrypoint-initdb.d",
        "redis": "/run/redis",
        "grafana": "/run/grafana",
        "prometheus": "/run/trunkline",
    }
    for name, place in places.items():
        assert any(volume.startswith(f"secrets-{name}:{place}:") for volume in SERVICES[name]["volumes"])
        used = set(re.findall(rf"{place}/([\w.]+)", str(SERVICES[name])))
        assert used <= set(made[name])
        assert int(SERVICES[name]["user"].split(":")[0]) == FIRST_START["USERS"][name]
    assert FIRST_START["USERS"]["trunkline"] == FIRST_START["USERS"]["migrate"] == 10001


def test_the_urls_that_are_made_are_those_of_the_stores() -> None:
    made = FIRST_START["files_of"]({name: name for name in FIRST_START["MADE"]})
    login = SERVICES["postgres"]["environment"]
    user, database = login["POSTGRES_USER"], login["POSTGRES_DB"]
    assert (
        made["migrate"]["TRUNKLINE_MIGRATION_DATABASE_URL"] == f"postgresql://{user}:owner@postgres:5432/{database}"
    )
    assert made["trunkline"]["TRUNKLINE_DATABASE_URL"] == f"postgresql://trunkline_pods:pods@postgres:5432/{database}"
    assert made["trunkline"]["TRUNKLINE_REDIS_URL"] == "redis://:redis@redis:6379/0"
    assert {"postgres", "redis"} <= set(SERVICES)


def test_every_volume_is_declared_and_every_file_is_there() -> None:
    volumes = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", ())]
    sources = {source for source, *_ in volumes}
    assert {source for source in sources if source[0] != "."} == set(yaml.safe_load(WHOLE.read_text())["volumes"])
    assert [source for source in sources if source[0] == "." and not (ROOT / source).exists()] == []


def test_services_begin_after_what_they_need() -> None:
    for name in PODS:
        needs = SERVICES[name]["depends_on"]
        assert needs["secrets"]["condition"] == needs["migrate"]["condition"] == "service_completed_successfully"
        assert needs["redis"]["condition"] == "service_healthy"
    assert {name: each["condition"] for name, each in SERVICES["nginx"]["depends_on"].items()} == {
        "api-1": "service_healthy",
        "api-2": "service_healthy",
    }
    for name in ("postgres", "redis", "prometheus", "grafana", "migrate"):
        assert SERVICES[name]["depends_on"]["secrets"]["condition"] == "service_completed_successfully"
    for name in ("secrets", "migrate"):
        assert SERVICES[name]["restart"] == "no"


@pytest.mark.parametrize("name", PODS)
def test_a_process_has_time_to_drain(name: str) -> None:
    settings = Settings(environment="dev")
    grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_timeout + max(settings.drain_delay, END_OF_WORKER)


def configured(place: Path, domain: str = "localhost") -> str:
    """nginx.conf as the service's command leaves it, beside what it includes."""
    (shell, option, script) = command("nginx")
    assert (shell, option) == ("sh", "-c")
    assert SERVICES["nginx"]["volumes"] == ["./nginx:/etc/trunkline:ro"]
    # First what the container has in /tmp: this clone may be there, too.
    edit = script.partition(" && exec nginx")[0].replace("/tmp/", f"{place}/")
    # Compose takes $$ for $, so that the shell sees it.
    edit = edit.replace("/etc/trunkline/", f"{ROOT / 'nginx'}/").replace("$$", "$")
    subprocess.run(["sh", "-c", edit], env={"PATH": "/usr/bin:/bin", "DOMAIN": domain}, check=True, timeout=30)
    return (place / "nginx.conf").read_text()


def test_nginx_listens_where_its_port_is_and_passes_to_both_pods(tmp_path: Path) -> None:
    text = configured(tmp_path)
    assert re.findall(r"^\s*listen (.+);", text, re.MULTILINE) == ["8080 default_server", "8080"]
    included = set(re.findall(r"include (\S+);", text))
    assert all((tmp_path / each).exists() for each in included)
    assert SERVICES["nginx"]["ports"][0].endswith(":8080")
    port = command("api-1")[command("api-1").index("--port") + 1]
    upstream = text.split("upstream trunkline {")[1].split("}")[0]
    assert re.findall(r"server (\S+) resolve ", upstream) == [f"api-1:{port}", f"api-2:{port}"]
    assert "127.0.0.1:80" not in upstream
    assert "resolver 127.0.0.11" in upstream  # Docker's own


def test_tenants_have_host_names_below_the_domain(tmp_path: Path) -> None:
    assert re.findall(r"server_name ~.+\\(\.\w.+)\$;", configured(tmp_path)) == [".localhost"]
    assert re.findall(r"server_name ~.+\\(\.\w.+)\$;", configured(tmp_path, "mcp.example.org")) == [
        ".mcp.example.org"
    ]
    public = SERVICES["api-1"]["environment"]["TRUNKLINE_PUBLIC_URL"]
    default = re.fullmatch(r"\$\{DOMAIN:-(.+)\}", SERVICES["nginx"]["environment"]["DOMAIN"])
    assert default
    assert f"://{default[1]}:" in public


def test_redis_keeps_calls_and_evicts_nothing() -> None:
    _, config, *flags = command("redis")
    assert config == "/run/redis/redis.conf"
    assert dict(zip(flags[::2], flags[1::2], strict=True)) == {
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory-policy": "noeviction",
    }


def test_prometheus_finds_every_pod_and_the_key_that_it_needs() -> None:
    document = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
    targets = {each["job_name"]: each["static_configs"][0]["targets"] for each in document["scrape_configs"]}
    environment = SERVICES["api-1"]["environment"]
    port = environment["TRUNKLINE_METRICS_PORT"]
    assert targets["trunkline-api"] + targets["trunkline-worker"] == [f"{name}:{port}" for name in PODS]
    host, _, listens = targets["trunkline-tenants"][0].partition(":")
    assert host in environment["TRUNKLINE_ALLOWED_HOSTS"].split(",")
    assert all(host in SERVICES[name]["networks"]["watch"]["aliases"] for name in PODS[:2])
    assert listens == command("api-1")[command("api-1").index("--port") + 1]
    (key,) = [
        each["authorization"]["credentials_file"] for each in document["scrape_configs"] if "authorization" in each
    ]
    assert f"secrets-prometheus:{Path(key).parent}:ro" in SERVICES["prometheus"]["volumes"]
    assert Path(key).name in FIRST_START["files_of"](dict.fromkeys(FIRST_START["MADE"], "x"))["prometheus"]
    for file in document["rule_files"]:
        assert (ROOT / "monitoring" / "prometheus" / Path(file).name).is_file()
    assert set(SERVICES["prometheus"]["networks"]) <= {
        network for name in PODS for network in SERVICES[name]["networks"]
    }


def test_grafana_has_its_dashboards_and_no_login_of_its_own() -> None:
    environment = SERVICES["grafana"]["environment"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).name
    assert (ROOT / "monitoring" / "dashboards" / home).is_file()
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/grafana/password"
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/dashboards/trunkline.yml").read_text())["providers"]
    assert f"./monitoring/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(f"{provider['options']['path']}/")
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_the_urls_in_the_file_of_stores_are_those_of_its_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    text = STORES.read_text()
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
    _, *flags = services["redis"]["command"]
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert given == {"--appendonly": "yes", "--appendfsync": "everysec", "--maxmemory-policy": "noeviction"}
