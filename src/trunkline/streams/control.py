"""What all pods must hear at once: cancelled calls, revoked keys, changed tenants.

A channel may lose what it carries. Each event therefore only hastens what its receiver would find out by itself:
pods read revocations and tenants again when their subscription was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import get_args

import orjson

from trunkline.streams.client import Redis


@dataclass(frozen=True, slots=True)
class TenantChanged:
    """A tenant's record or its toolsets changed."""

    slug: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """A key is refused from `at` (epoch seconds)."""

    key_id: str
    at: float


@dataclass(frozen=True, slots=True)
class SigningKeysChanged:
    """There is a new signing key, or one was retired."""


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """The client takes back a call; nobody waits for its answer any more."""

    call_id: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class ListsChanged:
    """Lists of a tenant's servers changed; of a toolset, for every tenant, where the tenant is empty."""

    tenant_id: str
    lists: Sequence[str]
    """Of "tools", "prompts", "resources"."""
    toolset: str = ""
    change: str = ""
    """What tells this change from others, where several announce it."""


@dataclass(frozen=True, slots=True)
class ResourceUpdated:
    """A resource of a tenant's servers was updated; of a toolset, for every tenant, where the tenant is empty."""

    tenant_id: str
    uri: str
    toolset: str = ""
    change: str = ""
    """As for lists."""


Event = TenantChanged | KeyRevoked | SigningKeysChanged | CallCancelled | ListsChanged | ResourceUpdated
_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def encode(event: Event) -> bytes:
    """The event as it is published."""
    return orjson.dumps({"kind": type(event).__name__, **asdict(event)})


def decode(payload: bytes) -> Event | None:
    """The event in a message, or None for a kind that this version does not know."""
    fields = orjson.loads(payload)
    kind = _KINDS.get(fields.pop("kind", ""))
    return None if kind is None else kind(**fields)


async def announce(redis: Redis, event: Event) -> None:
    """Tell every pod."""
    await redis.command("PUBLISH", redis.keys.control, encode(event))
