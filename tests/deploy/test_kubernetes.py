"""k8s/ renders, is valid, asks for no right, and says of the program what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.manifests import CUSTOM, K8S, RENDERED, Resource, container, named, of_kind, pod, render, templates
from tests.deploy.pod_security import violations
from tests.deploy.tools import tool

from trunkline.metrics import Metrics
from trunkline.settings import Settings

VARIABLES = {f"TRUNKLINE_{field}".upper() for field in Settings.model_fields}
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
SECRETS = {f"TRUNKLINE_{name}" for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "METRICS_KEY", "SMTP_URL")}
END_OF_WORKER = 15
"""Seconds that a worker may take after DRAIN_TIMEOUT: answering what is left, audit events, sign of life; 5 each."""
PRODUCTION = ("overlays/production", "overlays/production-hpa", "overlays/production-nginx")
ours = pytest.mark.parametrize("role", ["api", "worker", "migrate"])
everywhere = pytest.mark.parametrize("folder", RENDERED)
behind_an_ingress = pytest.mark.parametrize("folder", PRODUCTION[:2])
in_production = pytest.mark.parametrize("folder", PRODUCTION)


def seconds(value: str) -> int:
    return int(value.removesuffix("s"))


def test_every_manifest_is_valid(tmp_path: Path) -> None:
    """By the schemas of Kubernetes; of what it does not bring, tests below look at what is used."""
    file = tmp_path / "all.yaml"
    documents = [each for folder in RENDERED for each in render(folder) if each["kind"] not in CUSTOM]
    file.write_text(yaml.safe_dump_all(documents))
    told = tool("kubernetes-validate", "--strict", file)
    assert (told.stdout + told.stderr).count(" passed for resource ") == len(documents)


def test_a_field_that_there_is_not_is_found(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        yaml.safe_dump({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}})
    )
    assert tool("kubernetes-validate", "--strict", tmp_path / "bad.yaml", check=False).returncode != 0


def test_every_file_below_k8s_is_part_of_something() -> None:
    used = set()
    for kustomization in K8S.rglob("kustomization.yaml"):
        document = yaml.safe_load(kustomization.read_text())
        for each in (*document.get("resources", ()), *document.get("components", ())):
            target = (kustomization.parent / each).resolve()
            used.add(target / "kustomization.yaml" if target.is_dir() else target)
    tops = {K8S / folder / "kustomization.yaml" for folder in RENDERED}
    files = set(K8S.rglob("*.yaml"))
    assert files - used - tops == set()


@everywhere
def test_every_pod_meets_the_restricted_standard(folder: str) -> None:
    assert templates(folder)
    for template in templates(folder):
        assert violations(template["spec"], template["metadata"].get("annotations")) == []
        assert template["spec"]["automountServiceAccountToken"] is False
        for each in template["spec"]["containers"]:
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["resources"]["requests"]


@pytest.mark.parametrize("folder", RENDERED[1:])
def test_the_namespace_enforces_that_standard(folder: str) -> None:
    (namespace,) = of_kind(folder, "Namespace")
    labels = namespace["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "warn", "audit")} == {"restricted"}
    spaces = {each["metadata"].get("namespace") for each in render(folder) if each["kind"] != "Namespace"}
    assert spaces == {namespace["metadata"]["name"]}


@ours
def test_a_container_runs_a_command_that_there_is_with_options_that_it_has(role: str) -> None:
    program, command, *options = container("base", role)["command"]
    assert (program, command) == ("trunkline", role)
    shown = subprocess.run(
        [sys.executable, "-m", "trunkline", command, "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert all(option in shown for option in options if option.startswith("--"))


@everywhere
def test_variables_that_are_set_are_settings(folder: str) -> None:
    given = {name for each in of_kind(folder, "ConfigMap") for name in each["data"]}
    for template in templates(folder):
        given |= {each["name"] for inner in template["spec"]["containers"] for each in inner.get("env", ())}
    assert {name for name in given if name.startswith("TRUNKLINE_")} <= VARIABLES
    Settings(
        environment="dev",
        **{name.removeprefix("TRUNKLINE_").lower(): value for name, value in config(folder).items()},
    )


def config(folder: str) -> dict[str, str]:
    (found,) = (each for each in of_kind(folder, "ConfigMap") if "TRUNKLINE_PUBLIC_URL" in each["data"])
    data: dict[str, str] = found["data"]
    return data


@everywhere
def test_no_secret_is_written_down_and_each_process_takes_them_by_reference(folder: str) -> None:
    assert of_kind(folder, "Secret") == []
    assert not set(config(folder)) & SECRETS
    for role in ("api", "worker", "migrate"):
        inner = container(folder, role)
        assert {"secretRef": {"name": "trunkline"}} in inner["envFrom"]
        written = {each["name"] for each in inner.get("env", ()) if "value" in each}
        assert not written & SECRETS


def test_the_owner_of_the_tables_is_known_to_migrations_alone() -> None:
    for role in ("api", "worker", "migrate"):
        references = [each["secretRef"]["name"] for each in container("base", role)["envFrom"] if "secretRef" in each]
        assert ("trunkline-migrate" in references) == (role == "migrate")


def test_the_service_reaches_the_ports_that_the_api_listens_on() -> None:
    command = container("base", "api")["command"]
    ports = {each["name"]: each["containerPort"] for each in container("base", "api")["ports"]}
    assert ports["http"] == int(command[command.index("--port") + 1])
    service = named("base", "Service", "trunkline-api")["spec"]
    assert {each["name"]: each["targetPort"] for each in service["ports"]} == {"http": "http", "metrics": "metrics"}
    labels = named("base", "Deployment", "trunkline-api")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert service.get("sessionAffinity", "None") == "None"


def test_metrics_are_served_at_the_port_that_is_named() -> None:
    for role in ("api", "worker"):
        ports = {each["name"]: each["containerPort"] for each in container("base", role)["ports"]}
        assert ports["metrics"] == int(config("base")["TRUNKLINE_METRICS_PORT"])


def test_the_api_is_asked_at_addresses_that_answer_with_a_host_that_is_answered() -> None:
    probes = {name: container("base", "api")[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    for probe in probes.values():
        assert probe["httpGet"]["port"] == "http"
        assert probe["httpGet"]["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_workers_are_asked_at_the_only_port_that_they_have() -> None:
    worker = container("base", "worker")
    for name in ("startup", "liveness", "readiness"):
        assert worker[f"{name}Probe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_process_has_time_to_find_its_stores_before_it_counts_as_stuck(role: str) -> None:
    startup = container("base", role)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60


@everywhere
def test_the_grace_period_is_longer_than_what_a_process_may_take_to_end(folder: str) -> None:
    given = Settings(environment="dev")
    delay = float(config(folder).get("TRUNKLINE_DRAIN_DELAY", given.drain_delay))
    drain = float(config(folder).get("TRUNKLINE_DRAIN_TIMEOUT", given.drain_timeout))
    pause = container(folder, "api")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(folder, "api")["terminationGracePeriodSeconds"] > pause + delay + 0.5 + drain
    assert pod(folder, "worker")["terminationGracePeriodSeconds"] > drain + END_OF_WORKER
    assert "lifecycle" not in container(folder, "worker")


@pytest.mark.parametrize("role", ["api", "worker"])
def test_pods_are_spread_and_not_all_taken_away_at_once(role: str) -> None:
    labels = named("base", "Deployment", f"trunkline-{role}")["spec"]["selector"]["matchLabels"]
    spread = pod("base", role)["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert all(each["labelSelector"]["matchLabels"] == labels for each in spread)
    budget = named("base", "PodDisruptionBudget", f"trunkline-{role}")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == labels


def policies(folder: str, role: str, direction: str) -> list[Resource]:
    """The rules of one direction that hold for the pods of one component."""
    labels = {"app.kubernetes.io/name": "trunkline", "app.kubernetes.io/component": role}
    rules = []
    for policy in of_kind(folder, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        by_label = selector.get("matchLabels", {}).items() <= labels.items()
        by_rule = all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))
        if by_label and by_rule:
            rules += policy["spec"].get(direction, ())
    return rules


def opened(folder: str, role: str, direction: str) -> set[int | str]:
    return {port["port"] for rule in policies(folder, role, direction) for port in rule["ports"]}


@everywhere
def test_nothing_goes_in_or_out_but_what_is_named(folder: str) -> None:
    everything = named(folder, "NetworkPolicy", "deny-by-default")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert opened(folder, "api", "ingress") == {"http", "metrics", 8000}
    assert opened(folder, "worker", "ingress") == {"metrics", 8000}
    assert opened(folder, "migrate", "ingress") == set()
    stores, traces = {5432, 6379}, {4317, 4318}
    assert opened(folder, "api", "egress") == {53, *stores, *traces, 465, 587}
    assert opened(folder, "worker", "egress") == {53, *stores, *traces, 80, 443}
    assert opened(folder, "migrate", "egress") == {53, *stores}


@everywhere
def test_who_comes_in_is_named_and_tools_reach_no_private_address(folder: str) -> None:
    for role in ("api", "worker"):
        assert all(rule["from"] for rule in policies(folder, role, "ingress"))
    (blocks,) = [
        rule["to"]
        for rule in policies(folder, "worker", "egress")
        if {"protocol": "TCP", "port": 443} in rule["ports"]
    ]
    kept = {block["ipBlock"]["cidr"]: set(block["ipBlock"]["except"]) for block in blocks}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"} <= kept["0.0.0.0/0"]
    assert {"fc00::/7", "fe80::/10", "64:ff9b::/96"} <= kept["::/0"]


@behind_an_ingress
def test_the_ingress_passes_streams_on_as_they_come(folder: str) -> None:
    ingress = named(folder, "Ingress", "trunkline")
    prefix = "nginx.ingress.kubernetes.io/"
    told = {name.removeprefix(prefix): value for name, value in ingress["metadata"]["annotations"].items()}
    assert told["proxy-buffering"] == "off"
    assert told["proxy-http-version"] == "1.1"
    assert int(told["proxy-read-timeout"]) >= 2 * DEFAULTS["keepalive_interval"]
    assert int(told["proxy-body-size"].removesuffix("m")) * 1024**2 > DEFAULTS["max_body_bytes"]
    assert told["proxy-next-upstream"] == "error timeout"
    assert not [name for name in told if re.search("affinity|hash|sticky|snippet", name)]
    hosts = {rule["host"] for rule in ingress["spec"]["rules"]}
    assert {host for each in ingress["spec"]["tls"] for host in each["hosts"]} == hosts
    assert config(folder)["TRUNKLINE_PUBLIC_URL"] == f"https://{sorted(hosts, key=len)[0]}"
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            assert backend["port"]["name"] in {
                port["name"] for port in named(folder, "Service", backend["name"])["spec"]["ports"]
            }


@behind_an_ingress
def test_metrics_that_are_open_to_the_world_ask_for_a_key(folder: str) -> None:
    key = {"secretKeyRef": {"name": "trunkline", "key": "TRUNKLINE_METRICS_KEY"}}
    assert {"name": "TRUNKLINE_METRICS_KEY", "valueFrom": key} in container(folder, "api")["env"]


def scalers(folder: str) -> dict[str, tuple[str, Any]]:
    found = of_kind(folder, "HorizontalPodAutoscaler", "ScaledObject")
    return {each["spec"]["scaleTargetRef"]["name"]: (each["kind"], each["spec"]) for each in found}


@in_production
def test_each_deployment_has_one_scaler_and_no_number_of_its_own(folder: str) -> None:
    assert set(scalers(folder)) == {"trunkline-api", "trunkline-worker"}
    assert len(of_kind(folder, "HorizontalPodAutoscaler", "ScaledObject")) == 2
    for name in scalers(folder):
        assert "replicas" not in named(folder, "Deployment", name)["spec"]


def names_of_metrics() -> set[str]:
    page = Metrics("api", "0").render().decode()
    return set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))


@in_production
def test_api_pods_are_scaled_by_connections_and_cpu(folder: str) -> None:
    kind, spec = scalers(folder)["trunkline-api"]
    assert kind == "HorizontalPodAutoscaler"
    pods = [each["pods"]["metric"]["name"] for each in spec["metrics"] if each["type"] == "Pods"]
    assert pods == ["trunkline_active_connections"]
    assert set(pods) <= names_of_metrics()
    assert [each["containerResource"]["container"] for each in spec["metrics"] if "containerResource" in each] == [
        "api"
    ]
    assert spec["behavior"]["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]


def test_workers_are_scaled_by_their_backlog_in_both_ways() -> None:
    kind, spec = scalers("overlays/production")["trunkline-worker"]
    assert kind == "ScaledObject"
    assert spec["minReplicaCount"] >= 2
    assert {each["type"] for each in spec["triggers"]} == {"prometheus"}
    needed = {"serverAddress", "query", "threshold"}
    assert all(needed <= each["metadata"].keys() for each in spec["triggers"])
    assert all(isinstance(value, str) for each in spec["triggers"] for value in each["metadata"].values())
    queries = [each["metadata"]["query"] for each in spec["triggers"]]
    assert queries == ["trunkline:backlog_calls:max", "trunkline:slots_wanted:sum"]

    kind, spec = scalers("overlays/production-hpa")["trunkline-worker"]
    assert kind == "HorizontalPodAutoscaler"
    assert spec["minReplicas"] >= 2
    named_metrics = [
        each.get("pods", each.get("external", {})).get("metric", {}).get("name") for each in spec["metrics"]
    ]
    assert named_metrics == ["trunkline_slots_wanted", "trunkline_backlog_calls", None]


@in_production
def test_what_is_scaled_by_and_watched_is_what_monitoring_has(folder: str) -> None:
    recorded = {
        rule["record"]
        for each in of_kind(folder, "PrometheusRule")
        for group in each["spec"]["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    assert {"trunkline:backlog_calls:max", "trunkline:slots_wanted:sum"} <= recorded
    assert {
        "trunkline_active_connections",
        "trunkline_slots_wanted",
        "trunkline_backlog_calls",
    } <= names_of_metrics()
    for kind, role, endpoints in (
        ("ServiceMonitor", "api", "endpoints"),
        ("PodMonitor", "worker", "podMetricsEndpoints"),
    ):
        (monitor,) = of_kind(folder, kind)
        labels = named(folder, "Deployment", f"trunkline-{role}")["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ports = {port["name"] for port in container(folder, role)["ports"]}
        assert {each["port"] for each in monitor["spec"][endpoints]} <= ports


@in_production
def test_prometheus_is_answered_by_the_name_that_it_uses(folder: str) -> None:
    (scrape,) = of_kind(folder, "ScrapeConfig")
    assert scrape["spec"]["authorization"]["credentials"] == {"name": "trunkline", "key": "TRUNKLINE_METRICS_KEY"}
    (namespace,) = of_kind(folder, "Namespace")
    for target in scrape["spec"]["staticConfigs"][0]["targets"]:
        assert target == f"trunkline-api.{namespace['metadata']['name']}.svc"
        assert target in config(folder)["TRUNKLINE_ALLOWED_HOSTS"].split(",")
    service = named(folder, "Service", "trunkline-api")
    assert service["spec"]["ports"][0]["port"] == 80


def test_thresholds_of_workers_are_shares_of_their_slots() -> None:
    slots = int(config("overlays/production").get("TRUNKLINE_CONCURRENCY", DEFAULTS["concurrency"]))
    _, keda = scalers("overlays/production")["trunkline-worker"]
    assert [int(each["metadata"]["threshold"]) for each in keda["triggers"]] == [slots // 2, slots * 3 // 4]
    _, hpa = scalers("overlays/production-hpa")["trunkline-worker"]
    running, waiting, _ = hpa["metrics"]
    assert int(running["pods"]["target"]["averageValue"]) == slots * 3 // 4
    assert int(waiting["external"]["target"]["averageValue"]) == slots // 2


def test_stores_of_the_dev_overlay_keep_calls_and_are_reached_by_our_pods_alone() -> None:
    redis = container("overlays/dev", "redis")["command"][1:]
    given = dict(zip(redis[::2], redis[1::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--maxmemory-policy"] == "noeviction"
    rule = named("overlays/dev", "NetworkPolicy", "stores-in")["spec"]
    components = rule["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]["values"]
    assert components == ["api", "worker", "migrate"]


def test_what_the_page_on_kubernetes_names_is_there() -> None:
    page = (K8S / "README.md").read_text()
    assert set(re.findall(r"TRUNKLINE_[A-Z_]+[A-Z]", page)) - {"TRUNKLINE_API"} <= VARIABLES
    for path in re.findall(r"`((?:base|components|overlays)/[\w./-]*)`", page):
        assert (K8S / path).exists(), path
