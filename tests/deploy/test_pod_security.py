"""That the checks of Pod Security find what they are for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.deploy.pod_security import CONTROLS, violations

GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "a",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
BREACHES: list[tuple[str, str, Any]] = [
    ("HostProcess", "securityContext.windowsOptions", {"hostProcess": True}),
    ("host namespaces", "hostNetwork", True),
    ("host namespaces", "hostPID", True),
    ("host namespaces", "hostIPC", True),
    ("privileged containers", "containers.0.securityContext.privileged", True),
    ("hostPath volumes", "volumes", [{"name": "v", "hostPath": {"path": "/"}}]),
    ("host ports", "containers.0.ports", [{"containerPort": 80, "hostPort": 80}]),
    ("host probes and lifecycle hooks", "containers.0.livenessProbe", {"httpGet": {"host": "127.0.0.1"}}),
    ("host probes and lifecycle hooks", "containers.0.lifecycle", {"preStop": {"tcpSocket": {"host": "h"}}}),
    ("SELinux", "securityContext.seLinuxOptions", {"type": "spc_t"}),
    ("SELinux", "containers.0.securityContext.seLinuxOptions", {"user": "system_u"}),
    ("/proc mount type", "containers.0.securityContext.procMount", "Unmasked"),
    ("sysctls", "securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    ("volume types", "volumes", [{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
    ("privilege escalation", "containers.0.securityContext.allowPrivilegeEscalation", None),
    ("running as non-root", "securityContext.runAsNonRoot", None),
    ("running as non-root", "containers.0.securityContext.runAsNonRoot", False),
    ("running as non-root user", "containers.0.securityContext.runAsUser", 0),
    ("running as non-root user", "securityContext.runAsUser", 0),
    ("seccomp", "securityContext.seccompProfile", None),
    ("seccomp", "containers.0.securityContext.seccompProfile", {"type": "Unconfined"}),
    ("capabilities", "containers.0.securityContext.capabilities", {"drop": ["KILL"]}),
    ("capabilities", "containers.0.securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ("AppArmor", "securityContext.appArmorProfile", {"type": "Unconfined"}),
]


def test_a_pod_that_meets_all_controls_passes() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(("control", "place", "value"), BREACHES, ids=lambda value: str(value)[:40])
def test_a_breach_of_each_control_is_found(control: str, place: str, value: Any) -> None:
    spec = copy.deepcopy(GOOD)
    inner: Any = spec
    *path, last = place.split(".")
    for part in path:
        inner = inner[int(part)] if isinstance(inner, list) else inner.setdefault(part, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    assert control in violations(spec)


def test_an_init_container_is_looked_at_like_any_other() -> None:
    spec = copy.deepcopy(GOOD) | {"initContainers": [{"name": "b"}]}
    assert set(violations(spec)) == {"privilege escalation", "capabilities"}


def test_an_old_annotation_of_apparmor_is_looked_at() -> None:
    assert violations(GOOD, {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}) == ["AppArmor"]


def test_every_control_has_a_breach_that_shows_it() -> None:
    assert {control for control, _, _ in BREACHES} == {*CONTROLS, "AppArmor"}
