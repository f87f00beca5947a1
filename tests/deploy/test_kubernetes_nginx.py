"""Our own nginx as the way into the cluster: what its pod makes of the files, whom it reaches, who reaches it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.deploy.manifests import Resource, container, named, of_kind, pod
from tests.deploy.test_kubernetes import config, policies

FOLDER = "overlays/production-nginx"


def written(directory: Path) -> str:
    """nginx.conf as the container's command makes it, from the files as they are mounted."""
    (volume,) = (each for each in pod(FOLDER, "nginx")["volumes"] if "configMap" in each)
    (files,) = (
        each["data"]
        for each in of_kind(FOLDER, "ConfigMap")
        if each["metadata"]["name"] == volume["configMap"]["name"]
    )
    mounted = directory / "mounted"
    for item in volume["configMap"]["items"]:
        (mounted / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        (mounted / item["path"]).write_text(files[item["key"]])
    assert {item["key"] for item in volume["configMap"]["items"]} == set(files)
    (directory / "resolv.conf").write_text("search a.svc\nnameserver 10.96.0.10\nnameserver 10.96.0.11\n")
    shell, option, script = container(FOLDER, "nginx")["command"]
    script = script.partition(" && exec ")[0]
    for there, here in (
        ("/etc/trunkline", mounted),
        ("/tmp/nginx", directory / "made"),
        ("/etc/resolv.conf", directory / "resolv.conf"),
    ):
        assert there in script
        script = script.replace(there, str(here))
    subprocess.run([shell, option, script], env={"PATH": "/usr/bin:/bin"} | environment(), check=True, timeout=30)
    return (directory / "made" / "nginx.conf").read_text()


def environment() -> dict[str, str]:
    given = {each["name"]: each.get("value", "trunkline") for each in container(FOLDER, "nginx")["env"]}
    return {name: value.replace("$(NAMESPACE)", "trunkline") for name, value in given.items()}


def test_its_pod_makes_a_configuration_that_reaches_every_pod(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert not re.search(r"\$\{NGINX_[A-Z_]+\}", text)
    upstream = text.split("upstream trunkline {")[1].split("}")[0]
    service = named(FOLDER, "Service", "trunkline-api-pods")
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    assert f"server {name}:{service['spec']['ports'][0]['port']} resolve " in upstream
    assert "resolver 10.96.0.10 valid=2s;" in upstream
    assert service["spec"]["clusterIP"] == "None"
    api = container(FOLDER, "api")["ports"]
    assert service["spec"]["ports"][0]["port"] == next(
        each["containerPort"] for each in api if each["name"] == "http"
    )
    assert (tmp_path / "made" / "trunkline" / "tenant.conf").is_file()


def test_it_listens_at_its_ports_and_answers_for_the_domain_of_the_public_url(tmp_path: Path) -> None:
    text = written(tmp_path)
    ports = {str(each["containerPort"]) for each in container(FOLDER, "nginx")["ports"]}
    assert {re.split(r"[ ;]", each)[0] for each in re.findall(r"^\s*listen (.+)", text, re.MULTILINE)} == ports
    domain = environment()["NGINX_DOMAIN"]
    assert config(FOLDER)["TRUNKLINE_PUBLIC_URL"] == f"https://{domain}"
    assert f"server_name {domain};" in text
    mounts = {each["mountPath"] for each in container(FOLDER, "nginx")["volumeMounts"]}
    assert all(
        str(Path(environment()[f"NGINX_{each}"]).parent) in mounts for each in ("CERTIFICATE", "CERTIFICATE_KEY")
    )


def test_clients_keep_their_addresses() -> None:
    service = named(FOLDER, "Service", "trunkline-nginx")["spec"]
    assert service["externalTrafficPolicy"] == "Local"
    assert {each["port"]: each["targetPort"] for each in service["ports"]} == {80: "http", 443: "https"}


def test_it_has_time_to_end_its_streams() -> None:
    given = pod(FOLDER, "nginx")["terminationGracePeriodSeconds"]
    template = next(each["data"] for each in of_kind(FOLDER, "ConfigMap") if "render" in each["data"])
    (shutdown,) = re.findall(r"worker_shutdown_timeout (\d+)s;", template["production.conf.template"])
    assert given > container(FOLDER, "nginx")["lifecycle"]["preStop"]["sleep"]["seconds"] + int(shutdown)


def test_the_world_reaches_it_and_it_reaches_api_pods_alone() -> None:
    (incoming,) = policies(FOLDER, "nginx", "ingress")
    assert "from" not in incoming
    outgoing = [
        rule for rule in policies(FOLDER, "nginx", "egress") if {"protocol": "UDP", "port": 53} not in rule["ports"]
    ]
    assert [ports(rule) for rule in outgoing] == [{8000}]
    to = outgoing[0]["to"][0]["podSelector"]["matchLabels"]
    assert to["app.kubernetes.io/component"] == "api"
    allowed = [rule for rule in policies(FOLDER, "api", "ingress") if "podSelector" in rule["from"][0]]
    assert [ports(rule) for rule in allowed] == [{"http"}]


def ports(rule: Resource) -> set[int | str]:
    return {each["port"] for each in rule["ports"]}
