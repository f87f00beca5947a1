"""What checking a key costs a call: CPU of `Authenticator.identify` in this process, by what the key is bound to.

The keys of 10,000 tenants take turns, all of which the pod remembers: each call finds another one.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.report import progress
from trunkline.api.auth import Authenticator
from trunkline.api.heads import Head
from trunkline.api.http import Request
from trunkline.settings import Settings
from trunkline.tenants import tokens
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.last_use import LastUse
from trunkline.tenants.model import Limits, Tenant
from trunkline.tenants.signing import ALGORITHM, Keyring, SigningKey, VerificationKey
from trunkline.tenants.verify import Verifier

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

_SETTINGS = Settings(environment="dev")
_SIGNING = SigningKey("bench", Ed25519PrivateKey.generate())
_LIMITS = {"rate": 1e6, "burst": 1_000_000, "in_flight": 1000, "calls": 10**9}
BOUND_TO: dict[str, dict[str, object]] = {
    "nothing": {},
    "8 address ranges": {"net": [f"10.{number}.0.0/16" for number in range(7)] + ["127.0.0.0/8"]},
    "limits and quotas": {"lim": _LIMITS},
    "both": {"net": [f"10.{number}.0.0/16" for number in range(7)] + ["127.0.0.0/8"], "lim": _LIMITS},
}


class _Ring:
    def get(self, kid: str) -> VerificationKey:
        return VerificationKey(kid, ALGORITHM, _SIGNING.private.public_key().public_bytes_raw(), float("inf"))


class _Directory:
    """Tenants as they are in a pod's memory."""

    def __init__(self, tenants: Sequence[Tenant]) -> None:
        self._tenants = {tenant.slug: tenant for tenant in tenants}

    def peek(self, slug: str) -> Tenant:
        return self._tenants[slug]


class _Asked:
    """A request, as far as it says who sends it."""

    def __init__(self, tenant: str, token: str) -> None:
        self.tenant = tenant
        scope: dict[str, Any] = {
            "method": "POST",
            "raw_path": f"/t/{tenant}/mcp".encode(),
            "query_string": b"",
            "http_version": "1.1",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
        }
        self.head = Head(cast("HTTPScope", scope))

    def address(self, _proxies: object, *, certain: bool) -> str:
        return "127.0.0.1"


def _requests(count: int, claims: dict[str, object]) -> tuple[list[Tenant], list[Request]]:
    now = int(time.time())
    tenants, requests = [], []
    for number in range(count):
        slug = f"t{number:05}"
        tenants.append(Tenant(f"{number:032x}", slug, slug, "key", "active", Limits(1e6, 10**6, 1000, 1000), (), 1))
        made = {
            "iss": _SETTINGS.public_url,
            "aud": _SETTINGS.tenant_url(slug),
            "tenant": tenants[-1].id,
            "slug": slug,
            "jti": f"key_{number:032x}",
            "scope": "mcp:call mcp:read",
            "tools": ["*"],
            "iat": now,
            "exp": now + 3600,
            **claims,
        }
        requests.append(cast("Request", _Asked(slug, tokens.sign(made, _SIGNING))))
    return tenants, requests


async def _measure(count: int, calls: int, claims: dict[str, object]) -> tuple[float, float]:
    """Microseconds of CPU for a key's first request, and for a later one."""
    tenants, requests = _requests(count, claims)
    uses = LastUse(cast("Any", None), time.time)
    verifier = Verifier(_SETTINGS, cast("Keyring", _Ring()), cast("Any", None))
    identify = Authenticator(cast("TenantDirectory", _Directory(tenants)), verifier, _SETTINGS, uses.note).identify
    began = time.process_time()
    for request in requests:
        await identify(request, "lone")
    first = (time.process_time() - began) / count
    began = time.process_time()
    for number in range(calls):
        await identify(requests[number % count], "lone")
    return first * 1e6, (time.process_time() - began) / calls * 1e6


def main(arguments: list[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="scripts/bench keys", description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    print("| the key is bound to | us of CPU, later requests | us of CPU, first request |\n|---|---:|---:|")
    for name, claims in BOUND_TO.items():
        progress(f"a key bound to {name}")
        rounds = [asyncio.run(_measure(options.keys, options.calls, claims)) for _ in range(options.rounds)]
        first, later = (sorted(each)[len(rounds) // 2] for each in zip(*rounds, strict=True))
        print(f"| {name} | {later:.1f} | {first:.0f} |")
    return 0
