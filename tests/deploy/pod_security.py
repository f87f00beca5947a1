"""The level "restricted" of the Pod Security Standards, control by control, on a pod's specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Spec = dict[str, Any]

VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    }
)
SELINUX_TYPES = frozenset({None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe")


def containers(spec: Spec) -> Iterator[Spec]:
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        yield from spec.get(kind, ())


def contexts(spec: Spec) -> Iterator[Spec]:
    """The pod's security context and each container's."""
    yield spec.get("securityContext", {})
    for container in containers(spec):
        yield container.get("securityContext", {})


def of_container(container: Spec, name: str) -> Any:
    return container.get("securityContext", {}).get(name)


def inherited(spec: Spec, container: Spec, name: str) -> Any:
    """A field that a container has of its own or from its pod."""
    own = of_container(container, name)
    return spec.get("securityContext", {}).get(name) if own is None else own


def _handlers(container: Spec) -> Iterator[Spec]:
    for name in HANDLERS:
        yield container.get(name, {})
    yield from container.get("lifecycle", {}).values()


def _apparmor(spec: Spec, annotations: dict[str, str]) -> bool:
    old = [value for name, value in annotations.items() if name.startswith("container.apparmor.security.beta")]
    types = [context["appArmorProfile"].get("type") for context in contexts(spec) if "appArmorProfile" in context]
    return all(each == "runtime/default" or each.startswith("localhost/") for each in old) and all(
        each in {"RuntimeDefault", "Localhost"} for each in types
    )


def _selinux(spec: Spec) -> bool:
    options = [context.get("seLinuxOptions", {}) for context in contexts(spec)]
    return all(
        each.get("type") in SELINUX_TYPES and not each.get("user") and not each.get("role") for each in options
    )


def _capabilities(spec: Spec) -> bool:
    found = [container.get("securityContext", {}).get("capabilities", {}) for container in containers(spec)]
    return all("ALL" in each.get("drop", ()) and set(each.get("add", ())) <= {"NET_BIND_SERVICE"} for each in found)


CONTROLS: dict[str, Callable[[Spec], bool]] = {
    # Baseline
    "HostProcess": lambda spec: not any(each.get("windowsOptions", {}).get("hostProcess") for each in contexts(spec)),
    "host namespaces": lambda spec: not any(spec.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")),
    "privileged containers": lambda spec: not any(of_container(each, "privileged") for each in containers(spec)),
    "hostPath volumes": lambda spec: not any("hostPath" in each for each in spec.get("volumes", ())),
    "host ports": lambda spec: (
        not any(port.get("hostPort") for each in containers(spec) for port in each.get("ports", ()))
    ),
    "host probes and lifecycle hooks": lambda spec: (
        not any(
            handler.get(kind, {}).get("host")
            for each in containers(spec)
            for handler in _handlers(each)
            for kind in ("httpGet", "tcpSocket")
        )
    ),
    "SELinux": _selinux,
    "/proc mount type": lambda spec: all(
        of_container(each, "procMount") in {None, "Default"} for each in containers(spec)
    ),
    "sysctls": lambda spec: {each["name"] for each in spec.get("securityContext", {}).get("sysctls", ())} <= SYSCTLS,
    # Restricted
    "volume types": lambda spec: all(set(each) - {"name"} <= VOLUMES for each in spec.get("volumes", ())),
    "privilege escalation": lambda spec: all(
        of_container(each, "allowPrivilegeEscalation") is False for each in containers(spec)
    ),
    "running as non-root": lambda spec: all(
        inherited(spec, each, "runAsNonRoot") is True for each in containers(spec)
    ),
    "running as non-root user": lambda spec: not any(each.get("runAsUser") == 0 for each in contexts(spec)),
    "seccomp": lambda spec: (
        all(
            (inherited(spec, each, "seccompProfile") or {}).get("type") in {"RuntimeDefault", "Localhost"}
            for each in containers(spec)
        )
        and spec.get("securityContext", {}).get("seccompProfile", {}).get("type") != "Unconfined"
    ),
    "capabilities": _capabilities,
}


def violations(spec: Spec, annotations: dict[str, str] | None = None) -> list[str]:
    """The controls that a pod does not meet."""
    found = [name for name, met in CONTROLS.items() if not met(spec)]
    return found if _apparmor(spec, annotations or {}) else [*found, "AppArmor"]
